//! Operations that create an object: identical requests join, and an object that no caller receives is rolled back.
//!
//! ```text
//!   Running ──► Unclaimed ──claim──► (listed)
//!      │ another config     │ another config, or 4 minutes
//!      └────► Abandoned ◄───┘ ──► rolled back
//! ```
//! An object is added to the store only once a live caller gets its id. If a sandbox that kubelet does not know were
//! listed, kubelet would create the next attempt, and a retry would never join (docs/rulings.md 1-3).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use crate::tasks::Tasks;
use crate::undo::Undo;

/// How long an object without a caller is held for a retry.
const UNCLAIMED: Duration = Duration::from_secs(240);

/// The result of a successful operation: the object, and how to roll it back.
pub struct Creation<T> {
    /// Not in the store yet.
    pub object: Arc<T>,
    /// Rolls the object back; run if no caller receives it.
    pub undo: Undo,
}

/// What makes two requests the same.
pub struct Key<'a, R> {
    pub name: &'a str,
    /// The whole request: a different one with the same name is a conflict. Compared as a message, because equal
    /// messages can have different bytes: protobuf maps have no order.
    pub request: R,
}

/// The store that created objects are added to.
pub trait ListTarget<T>: Send + Sync + 'static {
    /// Adds an object that a live caller receives.
    fn list(&self, object: &Arc<T>);
    /// Rolls back an object that no caller received. Its name is occupied by the operation until this resolves. Then
    /// the name is free, or the object is listed, so that Stop and Remove can finish the rollback.
    fn roll_back(self: Arc<Self>, object: Arc<T>, undo: Undo) -> impl Future<Output = ()> + Send;
}

/// The result for a caller.
#[derive(Debug)]
pub enum Outcome<T, E> {
    /// The object, which is now in the store.
    Made(Arc<T>),
    /// The operation failed and was rolled back.
    Failed(Arc<E>),
    /// An operation with this name but another request exists, and is being rolled back.
    Conflict,
}

/// The state of the operation, for its waiting callers.
enum Progress<T, E> {
    Running,
    Done(Arc<T>),
    Failed(Arc<E>),
}

impl<T, E> Clone for Progress<T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Running => Self::Running,
            Self::Done(object) => Self::Done(Arc::clone(object)),
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Open,
    Claimed,
    Abandoned,
}

type InFlight<T, E, R> = HashMap<String, Arc<Flight<T, E, R>>>;

struct Flight<T, E, R> {
    request: R,
    progress: watch::Sender<Progress<T, E>>,
    claim: watch::Sender<Claim>,
}

/// The operations of one kind that are running or unclaimed, by the object's name.
pub struct Creations<T, E, R> {
    flights: Arc<Mutex<InFlight<T, E, R>>>,
    tasks: Tasks,
}

impl<T, E, R> Creations<T, E, R>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
    R: PartialEq + Send + Sync + 'static,
{
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { flights: Arc::default(), tasks }
    }

    /// Joins the operation with this name and request, or starts it. `target.list` is called once, by the first caller
    /// that is still waiting when the object has been created.
    pub async fn run<F>(
        &self,
        key: Key<'_, R>,
        target: &Arc<impl ListTarget<T>>,
        start: impl FnOnce() -> F,
    ) -> Outcome<T, E>
    where
        F: Future<Output = Result<Creation<T>, E>> + Send + 'static,
    {
        let Key { name, request } = key;
        let flight = {
            let mut flights = self.lock();
            match flights.get(name) {
                Some(flight) if flight.request == request && *flight.claim.borrow() != Claim::Abandoned => {
                    Arc::clone(flight)
                }
                Some(flight) => {
                    flight.abandon();
                    return Outcome::Conflict;
                }
                None => {
                    let flight = Arc::new(Flight::new(request));
                    flights.insert(name.to_owned(), Arc::clone(&flight));
                    self.start(name.to_owned(), Arc::clone(&flight), start(), Arc::clone(target));
                    flight
                }
            }
        };
        flight.outcome(&**target).await
    }

    /// How many operations are running or unclaimed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start<F>(&self, name: String, flight: Arc<Flight<T, E, R>>, work: F, target: Arc<impl ListTarget<T>>)
    where
        F: Future<Output = Result<Creation<T>, E>> + Send + 'static,
    {
        let flights = Arc::clone(&self.flights);
        let tasks = self.tasks.clone();
        self.tasks.operation(async move {
            // A panic must not leave a name that callers join forever. It is rethrown below, in the operation's own
            // task.
            let result = std::panic::AssertUnwindSafe(work).catch_unwind().await;
            let remove_flight = move || flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            match result {
                Ok(Ok(creation)) => {
                    flight.progress.send_replace(Progress::Done(Arc::clone(&creation.object)));
                    // Not an operation: a drain must not wait four minutes for a claim.
                    tasks.background(async move {
                        flight.commit_or_roll_back(creation, target).await;
                        remove_flight();
                    });
                }
                Ok(Err(error)) => {
                    flight.progress.send_replace(Progress::Failed(Arc::new(error)));
                    remove_flight();
                }
                Err(panic) => {
                    remove_flight();
                    drop(flight);
                    std::panic::resume_unwind(panic);
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, InFlight<T, E, R>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E, R> Flight<T, E, R> {
    fn new(request: R) -> Self {
        Self { request, progress: watch::Sender::new(Progress::Running), claim: watch::Sender::new(Claim::Open) }
    }

    fn abandon(&self) {
        self.claim.send_if_modified(|claim| {
            let open = *claim == Claim::Open;
            if open {
                *claim = Claim::Abandoned;
            }
            open
        });
    }

    /// Waits for the operation and claims the object.
    async fn outcome(&self, target: &impl ListTarget<T>) -> Outcome<T, E> {
        let mut progress = self.progress.subscribe();
        let done = progress.wait_for(|progress| !matches!(progress, Progress::Running)).await;
        let done = match done {
            Ok(done) => done.clone(),
            Err(_) => return Outcome::Conflict,
        };
        match done {
            Progress::Running => Outcome::Conflict,
            Progress::Failed(error) => Outcome::Failed(error),
            Progress::Done(object) => {
                let mut taken = false;
                self.claim.send_if_modified(|claim| {
                    taken = *claim != Claim::Abandoned;
                    let first = *claim == Claim::Open;
                    if first {
                        // Inside the lock, so that no retry finds the name free before the object is listed.
                        target.list(&object);
                        *claim = Claim::Claimed;
                    }
                    first
                });
                if taken { Outcome::Made(object) } else { Outcome::Conflict }
            }
        }
    }

    /// Waits for a claim; without one, rolls the object back.
    async fn commit_or_roll_back(&self, creation: Creation<T>, target: Arc<impl ListTarget<T>>) {
        let mut claim = self.claim.subscribe();
        let settled = async { claim.wait_for(|claim| *claim != Claim::Open).await.is_ok() };
        if tokio::time::timeout(UNCLAIMED, settled).await.is_err() {
            self.abandon();
        }
        if *self.claim.borrow() == Claim::Claimed {
            creation.undo.commit();
        } else {
            target.roll_back(creation.object, creation.undo).await;
        }
    }
}

#[cfg(test)]
mod tests;
