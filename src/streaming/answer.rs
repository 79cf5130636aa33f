//! HTTP responses to requests that do not become a session. They are short and are never logged: anyone who can reach
//! the port could flood the log.

use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Response, StatusCode};

/// The body is a sentence, or empty.
pub(super) type Answer = Response<String>;

/// Builds the response that rejects a request and closes the connection.
pub(super) fn refuse(status: StatusCode, sentence: &str) -> Box<Answer> {
    let mut answer = Response::new(format!("{sentence}\n"));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Box::new(answer)
}
