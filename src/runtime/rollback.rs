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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Error, Node, Repeatable};
use crate::telemetry::{LogKeys, Stage, Verb, add_keys, during, with_keys};
use crate::undo::{RollbackFailed, Undo};

/// How long a caller waits for an undo.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object that a verb creates.
pub(super) trait Creatable: Send + Sync + 'static {
    /// `sandbox` or `container`.
    const KIND: &str;
    fn id(&self) -> &str;
    /// The keys of log lines about it.
    fn keys(&self) -> &LogKeys;
    /// The operations that the undo replaces, since it does the same and more: the removal, and the stop.
    fn operations(&self) -> [Repeatable; 2];
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
        match during(Stage::Undo, self.roll_back(object, undo)).await {
            Ok(()) => cause,
            Err(leftovers) => Error::HalfUndone { cause: Box::new(cause), leftovers },
        }
    }

    /// Rolls back an object whose id no client has received.
    pub(super) async fn roll_back_unclaimed<T: Creatable>(self: &Arc<Self>, object: Arc<T>, undo: Undo) {
        let keys = object.keys().clone();
        let work = async {
            // What could not be undone is logged already, and the object is in the store.
            if self.roll_back(object, undo).await.is_ok() {
                tracing::info!(kind = T::KIND, "rolled back, because no client has received its id");
            }
        };
        with_keys(keys, work).await;
    }

    /// Runs the undo as an operation of its own, and waits for it.
    ///
    /// # Errors
    /// What could not be undone, or is not undone yet. The object is in the store then.
    pub(super) async fn roll_back<T: Creatable>(
        self: &Arc<Self>,
        object: Arc<T>,
        undo: Undo,
    ) -> Result<(), RollbackFailed> {
        let (tell, late) = oneshot::channel();
        let [removal, stop] = object.operations();
        let node = Arc::clone(self);
        let work = || async move {
            let (undoing, id) = (Arc::clone(&node), object.id().to_owned());
            let work = || node.tasks.run_named(Verb::TakeBack, id, undoing.undo(object, undo, tell));
            Ok(node.in_flight.repeatable.run(stop, work).await?)
        };
        tokio::select! {
            biased;
            Ok(late) = late => Err(late),
            ended = self.in_flight.repeatable.run(removal, work) => ended.map_err(|error| left_by(&error)),
        }
    }

    async fn undo<T: Creatable>(
        self: Arc<Self>,
        object: Arc<T>,
        undo: Undo,
        tell: oneshot::Sender<RollbackFailed>,
    ) -> super::Result<()> {
        add_keys(object.keys());
        let step = undo.current();
        let undoing = during(Stage::Undo, undo.roll_back());
        tokio::pin!(undoing);
        let outcome = if let Ok(outcome) = timeout(PATIENCE, &mut undoing).await {
            if let Err(leftovers) = &outcome {
                self.list_unfinished(&object, leftovers);
            }
            outcome
        } else {
            let late = RollbackFailed(vec![format!("{}: not done within {PATIENCE:?}, it goes on", *step.borrow())]);
            self.list_unfinished(&object, &late);
            // The caller that waited may have left.
            let _ = tell.send(late);
            let outcome = undoing.await;
            self.finish_late(&object, &outcome);
            outcome
        };
        outcome.map_err(|leftovers| Error::RollbackIncomplete { kind: T::KIND, id: object.id().to_owned(), leftovers })
    }

    /// Adds an object whose undo has failed or is late to the store.
    fn list_unfinished<T: Creatable>(&self, object: &Arc<T>, leftovers: &RollbackFailed) {
        tracing::error!(kind = T::KIND, %leftovers, "the rollback is not complete; the object stays in the store until it is stopped and removed");
        object.list(self);
    }

    /// Handles the end of an undo whose object was added to the store meanwhile.
    fn finish_late<T: Creatable>(&self, object: &Arc<T>, outcome: &Result<(), RollbackFailed>) {
        let kind = T::KIND;
        match outcome {
            Ok(()) => {
                tracing::info!(kind, "the late rollback is complete; the object was removed from the store");
                object.forget(self);
            }
            Err(leftovers) => {
                tracing::error!(kind, %leftovers, "the late rollback failed; the object stays in the store until it is stopped and removed");
            }
        }
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
