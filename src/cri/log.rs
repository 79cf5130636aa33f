//! Responses, and one log line for each mutating call: method, result, time. The verbs add the keys of the line, such as
//! the sandbox's id, when they know them (`log_keys.rs`).

use std::pin::Pin;
use std::time::Instant;

use prost::Message;
use tonic::{Code, Response, Status};

use super::status::{ToStatus, too_long};
use super::{Cri, MESSAGE_LIMIT};
use crate::api::v1::ContainerEventResponse;
use crate::runtime::Availability;
use crate::telemetry::{Call, millis};

impl Cri {
    /// Runs a mutating verb and logs its result.
    pub(super) fn logged<T, E>(
        &self,
        method: &'static str,
        verb: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<Response<T>, Status>>
    where
        E: ToStatus,
    {
        self.call(method, false, Box::pin(verb))
    }

    /// Runs a verb that kubelet calls all the time, for probes. Only a call that could not be served is logged at level
    /// info; a command that has failed, or that took too long, is the business of its pod.
    pub(super) fn logged_if_failed<T, E>(
        &self,
        method: &'static str,
        verb: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<Response<T>, Status>>
    where
        E: ToStatus,
    {
        self.call(method, true, Box::pin(verb))
    }

    /// The verb is boxed, because each future that contains this one would hold its state more than once.
    async fn call<T, E>(
        &self,
        method: &'static str,
        is_frequent: bool,
        verb: Pin<Box<impl Future<Output = Result<T, E>>>>,
    ) -> Result<Response<T>, Status>
    where
        E: ToStatus,
    {
        let (availability, call) = (&self.node.availability, Call::default());
        // Within the call, so that the line has its keys, also when the call is dropped.
        let work = async {
            let line = Line { availability, method, is_frequent, call: &call, start: Instant::now(), finished: false };
            line.end(verb.await.map_err(|error| error.to_status()))
        };
        call.run(work).await
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
        tracing::warn!(container = %event.container_id, bytes, "an event is longer than a message and was not sent");
    }
    bytes <= MESSAGE_LIMIT
}

/// The log line of one call. If the client leaves, tonic drops the call and with it this value. Then the line says what
/// the operation was doing, and a later line says how the operation ended.
struct Line<'a> {
    availability: &'a Availability,
    method: &'static str,
    /// Whether it is logged at level debug unless the call could not be served.
    is_frequent: bool,
    call: &'a Call,
    start: Instant,
    finished: bool,
}

impl Line<'_> {
    fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        self.finished = true;
        self.call.complete_keys();
        let (method, ms) = (self.method, millis(self.start.elapsed()));
        match &result {
            Ok(_) if self.is_frequent => tracing::debug!(%method, result = %"OK", ms),
            Ok(_) => tracing::info!(%method, result = %"OK", ms),
            Err(status) if self.is_expected(status.code()) => {
                tracing::debug!(%method, result = ?status.code(), error = status.message(), ms);
            }
            Err(status) => tracing::warn!(%method, result = ?status.code(), error = status.message(), ms),
        }
        result.map(Response::new)
    }

    /// Whether an error is no news to the operator.
    fn is_expected(&self, code: Code) -> bool {
        match code {
            Code::DeadlineExceeded => self.is_frequent,
            // The log says once that containerd is away. kubelet repeats its calls until it is back.
            Code::Unavailable => !self.availability.is_up(),
            _ => false,
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.call.complete_keys();
            let (method, stage, ms) = (self.method, self.call.stage(), millis(self.start.elapsed()));
            tracing::warn!(%method, result = "client left", %stage, ms);
            self.call.leave();
        }
    }
}
