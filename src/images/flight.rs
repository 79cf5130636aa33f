//! A flight is one operation that is shared by all callers that want the same result: the first caller starts it, later
//! ones join, and each may leave. It runs detached, and can find out that no caller has waited for it for a while.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// The flights in progress, by key.
pub(super) struct Flights<K, T> {
    flights: Arc<Mutex<HashMap<K, Arc<Flight<T>>>>>,
}

struct Flight<T> {
    result: watch::Sender<Outcome<T>>,
    waiters: watch::Sender<usize>,
    /// The owners of the callers that requested it: each once, even after its callers have left.
    owners: watch::Sender<Vec<String>>,
}

enum Outcome<T> {
    Running,
    Finished(T),
    /// The runner was dropped before the end: a panic.
    Panicked,
}

/// A caller's membership in a flight; dropping it leaves the flight.
pub(super) struct Waiter<T> {
    flight: Arc<Flight<T>>,
}

/// The handle that the operation of a flight holds.
pub(super) struct Runner<K: Eq + Hash, T> {
    key: K,
    flight: Arc<Flight<T>>,
    flights: Arc<Mutex<HashMap<K, Arc<Flight<T>>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Flights<K, T> {
    /// Joins the flight for `key`. The runner is returned if there was no flight: then the caller has to start it.
    pub(super) fn join(&self, key: K) -> (Waiter<T>, Option<Runner<K, T>>) {
        self.join_as("", key)
    }

    /// Like [`Flights::join`], for a caller of `owner`.
    pub(super) fn join_as(&self, owner: &str, key: K) -> (Waiter<T>, Option<Runner<K, T>>) {
        let mut flights = lock(&self.flights);
        match flights.entry(key) {
            Entry::Occupied(entry) => {
                let flight = Arc::clone(entry.get());
                flight.waiters.send_modify(|waiters| *waiters += 1);
                flight.owners.send_if_modified(|owners| {
                    let is_new = !owners.iter().any(|known| known == owner);
                    if is_new {
                        owners.push(owner.to_owned());
                    }
                    is_new
                });
                (Waiter { flight }, None)
            }
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                let flight = Arc::new(Flight {
                    result: watch::Sender::new(Outcome::Running),
                    waiters: watch::Sender::new(1),
                    owners: watch::Sender::new(vec![owner.to_owned()]),
                });
                entry.insert(Arc::clone(&flight));
                let runner = Runner { key, flight: Arc::clone(&flight), flights: Arc::clone(&self.flights) };
                (Waiter { flight }, Some(runner))
            }
        }
    }

    /// The number of flights in progress.
    pub(super) fn len(&self) -> usize {
        lock(&self.flights).len()
    }
}

impl<T: Clone> Waiter<T> {
    /// Waits for the result; `None` when the runner was dropped before the end.
    pub(super) async fn wait(self) -> Option<T> {
        let mut result = self.flight.result.subscribe();
        let outcome = result.wait_for(|outcome| !matches!(outcome, Outcome::Running)).await;
        match outcome.as_deref() {
            Ok(Outcome::Finished(value)) => Some(value.clone()),
            Ok(Outcome::Running | Outcome::Panicked) | Err(_) => None,
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.flight.waiters.send_modify(|waiters| *waiters = waiters.saturating_sub(1));
    }
}

impl<K: Eq + Hash, T> Runner<K, T> {
    /// Resolves when no caller has waited for `patience`; from then on no caller can join.
    pub(super) async fn abandoned(&self, patience: Duration) {
        let mut waiters = self.flight.waiters.subscribe();
        loop {
            if waiters.wait_for(|waiters| *waiters == 0).await.is_err() {
                return;
            }
            let back = tokio::time::timeout(patience, waiters.wait_for(|waiters| *waiters > 0)).await.is_ok();
            if !back && self.close_if_empty() {
                return;
            }
        }
    }

    /// The owners of the callers that requested it, starting with that of the first caller.
    pub(super) fn owners(&self) -> watch::Receiver<Vec<String>> {
        self.flight.owners.subscribe()
    }

    /// Takes the lock under which callers join: a caller either joins in time, or starts a new flight.
    fn close_if_empty(&self) -> bool {
        let mut flights = lock(&self.flights);
        let empty = *self.flight.waiters.borrow() == 0;
        if empty {
            flights.remove(&self.key);
        }
        empty
    }

    /// Ends the flight: waiting callers get the result, and the next caller starts a new flight.
    pub(super) fn finish(self, result: T) {
        self.remove();
        self.flight.result.send_replace(Outcome::Finished(result));
    }

    fn remove(&self) {
        let mut flights = lock(&self.flights);
        // After `close_if_empty`, the key may belong to another flight.
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, T> Drop for Runner<K, T> {
    fn drop(&mut self) {
        self.remove();
        self.flight.result.send_if_modified(|outcome| {
            let panicked = matches!(outcome, Outcome::Running);
            if panicked {
                *outcome = Outcome::Panicked;
            }
            panicked
        });
    }
}

fn lock<K, T>(flights: &Mutex<HashMap<K, Arc<Flight<T>>>>) -> MutexGuard<'_, HashMap<K, Arc<Flight<T>>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Test = Flights<&'static str, u32>;
    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_second_caller_joins_and_gets_the_same() {
        let flights = Test::default();
        let (first, runner) = flights.join("a");
        let (second, none) = flights.join("a");
        assert!(none.is_none());
        assert!(flights.join("b").1.is_some());
        runner.unwrap().finish(7);
        assert_eq!((first.wait().await, second.wait().await), (Some(7), Some(7)));
        assert_eq!(flights.len(), 0);
        assert!(flights.join("a").1.is_some(), "a finished flight is over");
    }

    #[test]
    fn whoever_asks_is_known_once() {
        let flights = Test::default();
        let (_waiter, runner) = flights.join_as("one", "a");
        let runner = runner.unwrap();
        let mut owners = runner.owners();
        owners.mark_unchanged();
        let _again = flights.join_as("one", "a");
        assert!(!owners.has_changed().unwrap());
        let _other = flights.join_as("other", "a");
        assert!(owners.has_changed().unwrap());
        assert_eq!(*owners.borrow(), ["one", "other"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_abandoned_a_minute_after_the_last_left() {
        let flights = Test::default();
        let (first, runner) = flights.join("a");
        let runner = runner.unwrap();
        let start = tokio::time::Instant::now();
        let leaving = async {
            tokio::time::sleep(MINUTE).await;
            drop(first);
            tokio::time::sleep(MINUTE / 2).await;
            let back = flights.join("a");
            assert!(back.1.is_none());
            tokio::time::sleep(MINUTE * 2).await;
        };
        tokio::join!(leaving, runner.abandoned(MINUTE));
        assert_eq!(start.elapsed(), MINUTE + MINUTE / 2 + MINUTE * 2 + MINUTE);
        assert!(flights.join("a").1.is_some(), "a new caller does not join a closed flight");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_ends_the_wait() {
        let flights = Test::default();
        let (waiter, runner) = flights.join("a");
        drop(runner);
        assert_eq!(waiter.wait().await, None);
        assert_eq!(flights.len(), 0);
    }
}
