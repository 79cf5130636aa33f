//! What was made of an object whose creation failed, or that nobody took, is taken back.
//!
//! ```text
//! undo runs, not listed ──ended────────────────────────────► gone, or listed with what is left
//!        │ PATIENCE is over: the caller is told
//!        └─► undo runs, listed, Stop and Remove join it ──► gone, or listed with what is left
//! ```
//!
//! An undo is never dropped in the middle: it has calls to containerd and to CNI plugins in it, which would be cancelled
//! half-way. What ends early is the wait of the caller. From then on the object is listed as one that is not ready: it has
//! resources, and its name is taken. kubelet's Stop and Remove of it join the undo, so that nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Change, Error, Node};
use crate::telemetry::{Stage, Verb, during};
use crate::undo::{Leftovers, Undo};

/// How long a caller waits for an undo.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object that a verb makes.
pub(super) trait Made: Send + Sync + 'static {
    /// `sandbox` or `container`.
    const KIND: &str;
    /// The id.
    fn id(&self) -> &str;
    /// What the undo stands for, since it does the same and more: the removal, and the stop.
    fn changes(&self) -> [Change; 2];
    /// Lists it as one that can be stopped and removed, and nothing else.
    fn list(self: &Arc<Self>, node: &Node);
    /// Takes it off the list.
    fn forget(self: &Arc<Self>, node: &Node);
}

impl Node {
    /// Takes a failed creation back; gives the error for its caller.
    pub(super) async fn take_back_after<T: Made>(self: &Arc<Self>, object: Arc<T>, undo: Undo, cause: Error) -> Error {
        match during(Stage::Undo, self.take_back(object, undo)).await {
            Ok(()) => cause,
            Err(leftovers) => Error::HalfUndone { cause: Box::new(cause), leftovers },
        }
    }

    /// Runs the undo as an operation of its own, and waits for it.
    ///
    /// # Errors
    /// What could not be undone, or not yet. The object is listed then.
    pub(super) async fn take_back<T: Made>(self: &Arc<Self>, object: Arc<T>, undo: Undo) -> Result<(), Leftovers> {
        let (tell, late) = oneshot::channel();
        let [removal, stop] = object.changes();
        let node = Arc::clone(self);
        let work = || async move {
            let (undoing, id) = (Arc::clone(&node), object.id().to_owned());
            let work = || node.tasks.named(Verb::TakeBack, id, undoing.undo(object, undo, tell));
            Ok(node.changes.run(stop, work).await?)
        };
        tokio::select! {
            biased;
            Ok(late) = late => Err(late),
            ended = self.changes.run(removal, work) => ended.map_err(|error| left_by(&error)),
        }
    }

    async fn undo<T: Made>(
        self: Arc<Self>,
        object: Arc<T>,
        undo: Undo,
        tell: oneshot::Sender<Leftovers>,
    ) -> super::Result<()> {
        let step = undo.current();
        let undoing = during(Stage::Undo, undo.roll_back());
        tokio::pin!(undoing);
        let outcome = if let Ok(outcome) = timeout(PATIENCE, &mut undoing).await {
            if let Err(leftovers) = &outcome {
                self.keep(&object, leftovers);
            }
            outcome
        } else {
            let late = Leftovers(vec![format!("{}: not done within {PATIENCE:?}, it goes on", *step.borrow())]);
            self.keep(&object, &late);
            // Whoever waited may have gone.
            let _ = tell.send(late);
            let outcome = undoing.await;
            self.settle(&object, &outcome);
            outcome
        };
        outcome.map_err(|leftovers| Error::NotTakenBack { kind: T::KIND, id: object.id().to_owned(), leftovers })
    }

    fn keep<T: Made>(&self, object: &Arc<T>, leftovers: &Leftovers) {
        let (kind, id) = (T::KIND, object.id());
        tracing::error!(kind, id, %leftovers, "what failed is not taken back whole; it is listed");
        object.list(self);
    }

    /// The end of an undo whose object was listed meanwhile.
    fn settle<T: Made>(&self, object: &Arc<T>, outcome: &Result<(), Leftovers>) {
        let (kind, id) = (T::KIND, object.id());
        match outcome {
            Ok(()) => {
                tracing::info!(kind, id, "what failed is taken back after all");
                object.forget(self);
            }
            Err(leftovers) => tracing::error!(kind, id, %leftovers, "what failed could not be taken back whole"),
        }
    }
}

/// What an undo has left, by the error that its callers share.
fn left_by(error: &Error) -> Leftovers {
    match error {
        Error::NotTakenBack { leftovers, .. } => leftovers.clone(),
        Error::Joined(error) => left_by(error),
        other => Leftovers(vec![other.chain()]),
    }
}
