//! Operations that callers share: the first caller with a key starts one, later ones join it, and each may leave. An
//! operation runs to its end when all have left. It may also find that out, and end early: [`Flight::abandoned`].

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::mutex::Mutex;
use crate::tasks::{SharedResult, Tasks};

/// The operations in progress, by key.
pub struct Flights<K, T> {
    running: Arc<Mutex<HashMap<K, Running<T>>>>,
    tasks: Tasks,
}

struct Running<T> {
    callers: Arc<Callers>,
    result: SharedResult<T>,
}

struct Callers {
    /// How many wait.
    waiting: watch::Sender<usize>,
    /// The owners of all callers so far, each once, including those whose callers have left.
    owners: watch::Sender<Vec<String>>,
}

/// The operation's own view of its flight.
pub struct Flight<K, T> {
    key: K,
    callers: Arc<Callers>,
    running: Arc<Mutex<HashMap<K, Running<T>>>>,
}

/// A caller that waits; dropping it leaves the flight.
struct Waiter(Arc<Callers>);

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), tasks }
    }

    /// Joins the operation with this key, or starts it. Returns its result, the same for all callers.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.run_as("", key, |_| work()).await
    }

    /// Like [`Flights::run`], for a caller on behalf of `owner`, and for an operation that looks at its callers.
    pub async fn run_as<F>(&self, owner: &str, key: K, work: impl FnOnce(Flight<K, T>) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (_waiter, result) = self.join(owner, key, work);
        result.await
    }

    /// The number of operations in progress.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn join<F>(&self, owner: &str, key: K, work: impl FnOnce(Flight<K, T>) -> F) -> (Waiter, SharedResult<T>)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(known) = running.get(&key) {
            return (Waiter::new(&known.callers, owner), known.result.clone());
        }
        let callers = Arc::new(Callers { waiting: watch::Sender::new(0), owners: watch::Sender::default() });
        let waiter = Waiter::new(&callers, owner);
        let flight = || Flight { key: key.clone(), callers: Arc::clone(&callers), running: Arc::clone(&self.running) };
        let (work, ended) = (work(flight()), flight());
        let result = self.tasks.shared_operation(async move {
            let result = work.await;
            // First, so that a caller that has the result does not join the same operation again.
            ended.remove();
            result
        });
        running.insert(key, Running { callers, result: result.clone() });
        (waiter, result)
    }
}

impl<K: Eq + Hash, T> Flight<K, T> {
    /// Resolves when no caller has waited for `patience`. From then on no caller joins.
    pub async fn abandoned(&self, patience: Duration) {
        let mut waiting = self.callers.waiting.subscribe();
        loop {
            if waiting.wait_for(|waiting| *waiting == 0).await.is_err() {
                return;
            }
            let back = tokio::time::timeout(patience, waiting.wait_for(|waiting| *waiting > 0)).await.is_ok();
            if !back && self.close_if_empty() {
                return;
            }
        }
    }

    /// The owners of the callers, starting with that of the first caller.
    #[must_use]
    pub fn owners(&self) -> watch::Receiver<Vec<String>> {
        self.callers.owners.subscribe()
    }

    /// Takes the lock under which callers join: a caller either joins in time, or starts a new operation.
    fn close_if_empty(&self) -> bool {
        let mut running = self.running.lock();
        let empty = *self.callers.waiting.borrow() == 0;
        if empty {
            running.remove(&self.key);
        }
        empty
    }

    fn remove(&self) {
        let mut running = self.running.lock();
        // After `close_if_empty`, the key may belong to another operation.
        if running.get(&self.key).is_some_and(|known| Arc::ptr_eq(&known.callers, &self.callers)) {
            running.remove(&self.key);
        }
    }
}

impl Waiter {
    fn new(callers: &Arc<Callers>, owner: &str) -> Self {
        callers.waiting.send_modify(|waiting| *waiting += 1);
        callers.owners.send_if_modified(|owners| {
            let is_new = !owners.iter().any(|known| known == owner);
            if is_new {
                owners.push(owner.to_owned());
            }
            is_new
        });
        Self(Arc::clone(callers))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
