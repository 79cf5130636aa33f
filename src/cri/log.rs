//! Responses, and one log line for each mutating call: method, object, result, time.

use std::fmt::Display;
use std::time::Instant;

use prost::Message;
use tonic::{Code, Response, Status};

use super::status::{ToStatus, too_long};
use super::{Cri, MESSAGE_LIMIT};
use crate::api::v1::ContainerEventResponse;
use crate::runtime::Availability;

/// Largest length of an object's name in a log line, in bytes. A pod's name from kubelet has at most 400 characters.
const LONGEST_OBJECT: usize = 1024;

impl Cri {
    /// Runs a mutating verb and logs its result.
    pub(super) async fn logged<T, E>(
        &self,
        method: &'static str,
        object: String,
        verb: impl Future<Output = Result<T, E>>,
    ) -> Result<Response<T>, Status>
    where
        E: ToStatus,
    {
        let (availability, object) = (&self.node.availability, shortened(object));
        let line = Line { availability, method, object, start: Instant::now(), finished: false };
        line.end(verb.await.map_err(|error| error.to_status()))
    }
}

/// Responds to a read-only call, which is not logged.
pub(super) fn answered<T: Message, E: ToStatus>(result: Result<T, E>) -> Result<Response<T>, Status> {
    fitting(result, None)
}

/// Responds to a call that lists objects. `stream` is the call for a list of any size.
pub(super) fn listed<T: Message, E: ToStatus>(result: Result<T, E>, stream: &str) -> Result<Response<T>, Status> {
    fitting(result, Some(stream))
}

/// Refuses a reply that is too long for a client. Sending it would end the call with a code that blames the client.
fn fitting<T: Message, E: ToStatus>(result: Result<T, E>, stream: Option<&str>) -> Result<Response<T>, Status> {
    let reply = result.map_err(|error| error.to_status())?;
    match reply.encoded_len() {
        length if length > MESSAGE_LIMIT => Err(too_long(length, stream)),
        _ => Ok(Response::new(reply)),
    }
}

/// Whether an event fits into a message. An event that is too long for its client would end the stream with the events
/// of all pods. It is left out instead; PodSandboxStatus of that pod returns an error that says so.
pub(super) fn fits(event: &ContainerEventResponse) -> bool {
    let bytes = event.encoded_len();
    if bytes > MESSAGE_LIMIT {
        tracing::warn!(container = event.container_id, bytes, "an event is longer than a message and was not sent");
    }
    bytes <= MESSAGE_LIMIT
}

/// Shortens the text that a client sent as an id or name: it may have any length, and is repeated in the log line.
fn shortened(mut object: String) -> String {
    if object.len() > LONGEST_OBJECT {
        object.truncate(object.floor_char_boundary(LONGEST_OBJECT));
        object += "...";
    }
    object
}

/// The log line of one call. If the client leaves, tonic drops the call and with it this value. Then the line says that
/// the client left, and the operation goes on without another line.
struct Line<'a> {
    availability: &'a Availability,
    method: &'static str,
    object: String,
    start: Instant,
    finished: bool,
}

impl Line<'_> {
    fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        self.finished = true;
        match result {
            Ok(reply) => {
                tracing::info!(method = self.method, object = self.object, result = "OK", ms = self.milliseconds());
                Ok(Response::new(reply))
            }
            Err(status) => {
                let result = format!("{:?}", status.code());
                let (method, object, error, ms) = (self.method, &self.object, status.message(), self.milliseconds());
                if status.code() == Code::Unavailable && !self.availability.is_up() {
                    // The log says once that containerd is away. kubelet repeats its calls until it is back.
                    tracing::debug!(method, object, result, error, ms);
                } else {
                    tracing::warn!(method, object, result, error, ms);
                }
                Err(status)
            }
        }
    }

    fn milliseconds(&self) -> impl Display + tracing::Value {
        self.start.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Line<'_> {
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
