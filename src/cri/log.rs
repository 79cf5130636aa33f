//! Answers, and one line for each mutating call: method, object, result, time.

use std::fmt::Display;
use std::time::Instant;

use prost::Message;
use tonic::{Response, Status};

use super::MESSAGE_LIMIT;
use super::status::{ToStatus, too_long};
use crate::api::v1::ContainerEventResponse;

/// What of an object's name a line has; that of a pod has at most 400 characters with kubelet.
const LONGEST_OBJECT: usize = 1024;

/// Runs a mutating verb and says what became of it.
pub(super) async fn logged<T, E>(
    method: &'static str,
    object: String,
    verb: impl Future<Output = Result<T, E>>,
) -> Result<Response<T>, Status>
where
    E: ToStatus,
{
    let line = Line { method, object: shortened(object), start: Instant::now(), finished: false };
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

/// Whether an event can be told. One that is too long for its client would end the stream, with all events of all pods; it
/// is left out, and that pod's status says the same of itself.
pub(super) fn fits(event: &ContainerEventResponse) -> bool {
    let bytes = event.encoded_len();
    if bytes > MESSAGE_LIMIT {
        tracing::warn!(container = event.container_id, bytes, "an event is longer than a message, and is not told");
    }
    bytes <= MESSAGE_LIMIT
}

/// A client may send any text where an id or a name belongs, and has it repeated in the line.
fn shortened(mut object: String) -> String {
    if object.len() > LONGEST_OBJECT {
        object.truncate(object.floor_char_boundary(LONGEST_OBJECT));
        object += "...";
    }
    object
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
