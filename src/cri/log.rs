//! Answers, and one line for each mutating call: method, object, result, time.

use std::fmt::Display;
use std::time::Instant;

use prost::Message;
use tonic::{Response, Status};

use super::MESSAGE_LIMIT;
use super::status::{ToStatus, too_long};

/// Runs a mutating verb and says what became of it.
pub(super) async fn logged<T, E>(
    method: &'static str,
    object: String,
    verb: impl Future<Output = Result<T, E>>,
) -> Result<Response<T>, Status>
where
    E: ToStatus,
{
    let line = Line { method, object, start: Instant::now(), finished: false };
    line.end(verb.await.map_err(|error| error.to_status()))
}

/// Answers a read; nothing is logged.
pub(super) fn answered<T: Message, E: ToStatus>(result: Result<T, E>) -> Result<Response<T>, Status> {
    fitting(result, None)
}

/// Answers a list, of which a call that streams gives as much as there is.
pub(super) fn listed<T: Message, E: ToStatus>(result: Result<T, E>, stream: &str) -> Result<Response<T>, Status> {
    fitting(result, Some(stream))
}

/// What is too long for a client would end the call with a code that blames it.
fn fitting<T: Message, E: ToStatus>(result: Result<T, E>, stream: Option<&str>) -> Result<Response<T>, Status> {
    let reply = result.map_err(|error| error.to_status())?;
    match reply.encoded_len() {
        length if length > MESSAGE_LIMIT => Err(too_long(length, stream)),
        _ => Ok(Response::new(reply)),
    }
}

/// The line of one call. When the client leaves, tonic drops the call and so this: then the
/// line says that, and the operation goes on without it.
struct Line {
    method: &'static str,
    object: String,
    start: Instant,
    finished: bool,
}

impl Line {
    fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        self.finished = true;
        match result {
            Ok(reply) => {
                tracing::info!(method = self.method, object = self.object, result = "OK", ms = self.milliseconds());
                Ok(Response::new(reply))
            }
            Err(status) => {
                let code = format!("{:?}", status.code());
                tracing::warn!(
                    method = self.method,
                    object = self.object,
                    result = code,
                    error = status.message(),
                    ms = self.milliseconds()
                );
                Err(status)
            }
        }
    }

    fn milliseconds(&self) -> impl Display + tracing::Value {
        self.start.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.finished {
            tracing::warn!(
                method = self.method,
                object = self.object,
                result = "client left",
                ms = self.milliseconds()
            );
        }
    }
}
