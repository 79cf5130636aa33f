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
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::mutex::Mutex;
use crate::tasks::{SharedResult, Tasks};
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

/// What an operation leads to: the object, not in the store yet, or its error.
type Created<T, E> = Result<Arc<T>, Arc<E>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Open,
    Claimed,
    Abandoned,
}

/// Whether a caller has received the object.
struct Claims(watch::Sender<Claim>);

/// An operation that creates an object, or its result that no caller has claimed.
struct SharedCreation<T, E, R> {
    request: R,
    claims: Arc<Claims>,
    result: SharedResult<Created<T, E>>,
}

type ByName<T, E, R> = HashMap<String, Arc<SharedCreation<T, E, R>>>;

/// The operations of one kind that are running or unclaimed, by the object's name.
pub struct Creations<T, E, R> {
    by_name: Arc<Mutex<ByName<T, E, R>>>,
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
        Self { by_name: Arc::default(), tasks }
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
        let creation = {
            let mut by_name = self.by_name.lock();
            match by_name.get(name) {
                Some(creation) if creation.request == request && !creation.claims.are_abandoned() => {
                    Arc::clone(creation)
                }
                Some(creation) => {
                    creation.claims.abandon();
                    return Outcome::Conflict;
                }
                None => {
                    let claims = Arc::new(Claims(watch::Sender::new(Claim::Open)));
                    let result = self.start(name.to_owned(), Arc::clone(&claims), start(), Arc::clone(target));
                    let creation = Arc::new(SharedCreation { request, claims, result });
                    by_name.insert(name.to_owned(), Arc::clone(&creation));
                    creation
                }
            }
        };
        creation.outcome(&**target).await
    }

    /// How many operations are running or unclaimed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts the operation. To be called with `by_name` locked: the operation removes its own.
    fn start<F>(
        &self,
        name: String,
        claims: Arc<Claims>,
        work: F,
        target: Arc<impl ListTarget<T>>,
    ) -> SharedResult<Created<T, E>>
    where
        F: Future<Output = Result<Creation<T>, E>> + Send + 'static,
    {
        let by_name = Arc::clone(&self.by_name);
        let tasks = self.tasks.clone();
        self.tasks.shared_operation(async move {
            let remove_creation = move || by_name.lock().remove(&name);
            match work.await {
                Ok(creation) => {
                    let object = Arc::clone(&creation.object);
                    // Not an operation: a drain must not wait four minutes for a claim.
                    tasks.background(async move {
                        claims.commit_or_roll_back(creation, target).await;
                        remove_creation();
                    });
                    Ok(object)
                }
                Err(error) => {
                    remove_creation();
                    Err(Arc::new(error))
                }
            }
        })
    }
}

impl<T, E, R> SharedCreation<T, E, R> {
    /// Waits for the operation and claims the object.
    async fn outcome(&self, target: &impl ListTarget<T>) -> Outcome<T, E> {
        match self.result.clone().await {
            Ok(object) if self.claims.claim(|| target.list(&object)) => Outcome::Made(object),
            Ok(_) => Outcome::Conflict,
            Err(error) => Outcome::Failed(error),
        }
    }
}

impl Claims {
    fn abandon(&self) {
        self.0.send_if_modified(|claim| {
            let open = *claim == Claim::Open;
            if open {
                *claim = Claim::Abandoned;
            }
            open
        });
    }

    fn are_abandoned(&self) -> bool {
        *self.0.borrow() == Claim::Abandoned
    }

    /// Claims the object for a caller, unless it is to be rolled back. The first claim lists it.
    fn claim(&self, list: impl FnOnce()) -> bool {
        let mut taken = false;
        self.0.send_if_modified(|claim| {
            taken = *claim != Claim::Abandoned;
            let first = *claim == Claim::Open;
            if first {
                // Inside the lock, so that no retry finds the name free before the object is listed.
                list();
                *claim = Claim::Claimed;
            }
            first
        });
        taken
    }

    /// Waits for a claim; without one, rolls the object back.
    async fn commit_or_roll_back<T>(&self, creation: Creation<T>, target: Arc<impl ListTarget<T>>) {
        let mut claim = self.0.subscribe();
        let settled = async { claim.wait_for(|claim| *claim != Claim::Open).await.is_ok() };
        if tokio::time::timeout(UNCLAIMED, settled).await.is_err() {
            self.abandon();
        }
        if *self.0.borrow() == Claim::Claimed {
            creation.undo.commit();
        } else {
            target.roll_back(creation.object, creation.undo).await;
        }
    }
}

#[cfg(test)]
mod tests;
