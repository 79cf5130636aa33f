//! Rolls back what was created of an object, if its creation failed or no caller claimed the object.
//!
//! ```text
//! undo runs, not in the store ──done─────────────────────────► gone, or in the store with what is left
//!        │ PATIENCE is over: the caller gets an error
//!        └─► undo runs, in the store, Stop and Remove join it ─► gone, or in the store with what is left
//! ```
//!
//! An undo is never dropped half-way: that would cancel its calls to containerd and CNI plugins in the middle. Only the
//! caller's wait ends early. From then on the object is in the store as one that is not ready: it has resources, and
//! its name is taken. kubelet's Stop and Remove of it join the undo, so that nothing is done twice.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::shortened;
use super::{Error, Node, Repeatable};
use crate::log_keys::{LogKeys, add_keys, with_keys};
use crate::telemetry::{Stage, Verb, during};
use crate::undo::{RollbackFailed, Undo};

/// How long a caller waits for an undo.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an object that was created is rolled back.
const UNCLAIMED: &str = "no client has received its id";

/// An object that a verb creates.
pub(super) trait Creatable: Send + Sync + 'static {
    /// `sandbox` or `container`.
    const KIND: &str;
    fn id(&self) -> &str;
    /// The keys of log lines about it.
    fn keys(&self) -> &LogKeys;
    /// The operations that the undo replaces, since it does the same and more: the removal, and the stop.
    fn operations(&self) -> [Repeatable; 2];
    /// Why the creation failed, once the object is in the store nevertheless.
    fn creation_error(&self) -> &OnceLock<Box<str>>;
    /// Adds the object to the store as one that can only be stopped and removed.
    fn list(self: &Arc<Self>, node: &Node);
    /// Removes the object from the store.
    fn forget(self: &Arc<Self>, node: &Node);
}

impl Node {
    /// Rolls back a failed creation; returns the error for its caller.
    pub(super) async fn roll_back_after<T: Creatable>(
        self: &Arc<Self>,
        object: Arc<T>,
        undo: Undo,
        cause: Error,
    ) -> Error {
        match during(Stage::Undo, self.roll_back(object, undo, &cause.chain())).await {
            Ok(()) => cause,
            Err(leftovers) => Error::HalfUndone { cause: Box::new(cause), leftovers },
        }
    }

    /// Rolls back an object whose id no client has received.
    pub(super) async fn roll_back_unclaimed<T: Creatable>(self: &Arc<Self>, object: Arc<T>, undo: Undo) {
        let keys = object.keys().clone();
        let work = async {
            // What could not be undone is logged already, and the object is in the store.
            if self.roll_back(object, undo, UNCLAIMED).await.is_ok() {
                tracing::info!(kind = T::KIND, "rolled back, because {UNCLAIMED}");
            }
        };
        with_keys(keys, work).await;
    }

    /// Runs the undo as an operation of its own, and waits for it. `cause` says why the object is rolled back.
    ///
    /// # Errors
    /// What could not be undone, or is not undone yet. The object is in the store then.
    pub(super) async fn roll_back<T: Creatable>(
        self: &Arc<Self>,
        object: Arc<T>,
        undo: Undo,
        cause: &str,
    ) -> Result<(), RollbackFailed> {
        let (tell, late) = oneshot::channel();
        let cause = cause.to_owned();
        let [removal, stop] = object.operations();
        let node = Arc::clone(self);
        let work = || async move {
            let (undoing, id) = (Arc::clone(&node), object.id().to_owned());
            let work = || node.tasks.run_named(Verb::TakeBack, id, undoing.undo(object, undo, cause, tell));
            Ok(node.in_flight.join_or_start_unnamed(stop, work).await?)
        };
        tokio::select! {
            biased;
            Ok(late) = late => Err(late),
            ended = self.in_flight.join_or_start_unnamed(removal, work) => ended.map_err(|error| left_by(&error)),
        }
    }

    async fn undo<T: Creatable>(
        self: Arc<Self>,
        object: Arc<T>,
        undo: Undo,
        cause: String,
        tell: oneshot::Sender<RollbackFailed>,
    ) -> super::Result<()> {
        add_keys(object.keys());
        let step = undo.current();
        let undoing = during(Stage::Undo, undo.roll_back());
        tokio::pin!(undoing);
        let outcome = if let Ok(outcome) = timeout(PATIENCE, &mut undoing).await {
            if let Err(leftovers) = &outcome {
                self.list_unfinished(&object, &cause, leftovers);
            }
            outcome
        } else {
            let late = RollbackFailed(vec![format!("{}: not done within {PATIENCE:?}, it goes on", *step.borrow())]);
            self.list_unfinished(&object, &cause, &late);
            // The caller that waited may have left.
            let _ = tell.send(late);
            let outcome = undoing.await;
            self.finish_late(&object, &cause, &outcome);
            outcome
        };
        outcome.map_err(|leftovers| Error::RollbackIncomplete { kind: T::KIND, id: object.id().to_owned(), leftovers })
    }

    /// Adds an object whose undo has failed or is late to the store.
    fn list_unfinished<T: Creatable>(&self, object: &Arc<T>, cause: &str, leftovers: &RollbackFailed) {
        object.creation_error().get_or_init(|| shortened(cause).into());
        tracing::error!(kind = T::KIND, cause, %leftovers, "the rollback is not complete; the object stays in the store until it is stopped and removed");
        object.list(self);
    }

    /// Handles the end of an undo whose object was added to the store meanwhile.
    fn finish_late<T: Creatable>(&self, object: &Arc<T>, cause: &str, outcome: &Result<(), RollbackFailed>) {
        let kind = T::KIND;
        match outcome {
            Ok(()) => {
                tracing::info!(kind, "the late rollback is complete; the object was removed from the store");
                object.forget(self);
            }
            Err(leftovers) => {
                tracing::error!(kind, cause, %leftovers, "the late rollback failed; the object stays in the store until it is stopped and removed");
            }
        }
    }
}

/// The error of a stop or removal. If the object exists only because its creation could not be undone, the error also
/// says why the creation failed: its caller has forgotten that, and the user sees only this error from then on.
pub(super) fn with_creation_error<T: Creatable>(object: &T, error: Error) -> Error {
    match object.creation_error().get() {
        Some(cause) => {
            let (id, cause) = (object.id().to_owned(), cause.clone());
            Error::NotUndone { kind: T::KIND, id, cause, error: Box::new(error) }
        }
        None => error,
    }
}

/// What an undo has left, from the error that its callers share.
fn left_by(error: &Error) -> RollbackFailed {
    match error {
        Error::RollbackIncomplete { leftovers, .. } => leftovers.clone(),
        Error::Joined(error) => left_by(error),
        other => RollbackFailed(vec![other.chain()]),
    }
}
