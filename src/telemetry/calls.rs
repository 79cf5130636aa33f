//! The call of a client, and the operation that it waits for. The operation goes on when the client leaves, so the log
//! needs both: the call's line says in which stage the operation was, and a later line says how the operation ended.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::names::Verb;
use super::operations::{InFlight, Operations};
use crate::log_keys::{LogKeys, add_keys, with_keys};
use crate::mutex::Mutex;

tokio::task_local! {
    static CALL: Call;
}

/// A call of a client. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    waits_for: Arc<Mutex<Option<Arc<InFlight>>>>,
}

impl Call {
    /// Runs `work` as this call. It has log keys of its own.
    pub fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        CALL.scope(self.clone(), with_keys(LogKeys::default(), work))
    }

    /// Adds what is known about the operation that the call waits for to the log keys of the current task.
    pub fn complete_keys(&self) {
        if let Some(operation) = &*self.waits_for.lock() {
            add_keys(&operation.log_keys());
        }
    }

    /// The open stages of the operation that the call waits for, joined by `+`.
    #[must_use]
    pub fn stage(&self) -> String {
        match &*self.waits_for.lock() {
            None => "not started".to_owned(),
            Some(operation) => operation.stage(),
        }
    }

    /// Has the end of the operation logged, since the client has left. If it has ended already, it is logged now.
    pub fn leave(&self) {
        if let Some(operation) = self.waits_for.lock().take() {
            operation.client_left();
        }
    }
}

/// Notes that the current call, if there is one, waits for this operation.
pub(super) fn wait_for(operation: &Arc<InFlight>) {
    let _ = CALL.try_with(|call| *call.waits_for.lock() = Some(Arc::clone(operation)));
}

impl Operations {
    /// Awaits `work`, which starts or joins the operation of this verb and object, and notes for the log that the
    /// current call waits for it.
    pub async fn waiting_for<F: Future>(&self, verb: Verb, object: &str, work: F) -> F::Output {
        let mut work = pin!(work);
        // The first poll starts or joins the operation. An operation that it starts has been noted by then.
        let polled = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return output;
        }
        let has_started_none = CALL.try_with(|call| call.waits_for.lock().is_none());
        if has_started_none.unwrap_or(false)
            && let Some(operation) = self.find(verb, object)
        {
            wait_for(&operation);
        }
        work.await
    }
}

/// How an operation ended, for the log.
pub trait Outcome {
    /// Why it failed, with all causes; `None` if it succeeded.
    fn failure(&self) -> Option<String>;
}

impl Outcome for () {
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<T, E: std::error::Error> Outcome for Result<T, E> {
    fn failure(&self) -> Option<String> {
        self.as_ref().err().map(|error| chain(error))
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent wrapper has the message of its source.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// A duration in whole milliseconds, as log lines show it in the field `ms`.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
