//! Answers to requests that do not become a session: short, and never a line in the log, which whoever reaches the
//! port could flood.

use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Response, StatusCode};

/// An answer; its body is a sentence, or empty.
pub(super) type Answer = Response<String>;

/// Says no, and closes the connection.
pub(super) fn refuse(status: StatusCode, sentence: &str) -> Box<Answer> {
    let mut answer = Response::new(format!("{sentence}\n"));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Box::new(answer)
}
