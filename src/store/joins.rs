//! Repeatable operations on one object: a second caller joins the operation that is running.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::tasks::Tasks;

type Running<E> = Shared<BoxFuture<'static, Result<(), Arc<E>>>>;

/// The running operations, by the key that makes two of them the same.
pub struct Joins<K, E> {
    running: Arc<Mutex<HashMap<K, Running<E>>>>,
    tasks: Tasks,
}

impl<K, E> Joins<K, E>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), tasks }
    }

    /// Joins the operation with this key, or starts it. It continues when the caller is dropped.
    ///
    /// # Errors
    /// The operation's error, the same for all callers that joined.
    pub async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<(), Arc<E>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let running = {
            let mut map = self.lock();
            match map.get(&key) {
                Some(running) => running.clone(),
                None => {
                    let running = self.start(key.clone(), start());
                    map.insert(key, running.clone());
                    running
                }
            }
        };
        running.await
    }

    fn start<F>(&self, key: K, work: F) -> Running<E>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let map = Arc::clone(&self.running);
        let handle = self.tasks.operation(async move {
            // Also catch a panic: otherwise callers would join this key forever.
            let result = std::panic::AssertUnwindSafe(work).catch_unwind().await;
            map.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            match result {
                Ok(result) => result.map_err(Arc::new),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        // An operation is never aborted. If it panics, each caller panics too.
        handle
            .map(|joined| joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
            .boxed()
            .shared()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Running<E>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_caller_joins_and_a_third_starts_anew() {
        let joins: Joins<u8, String> = Joins::new(Tasks::default());
        let count = Arc::new(AtomicU32::new(0));
        let work = || {
            let count = Arc::clone(&count);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, Ordering::Relaxed);
                Err("no".to_owned())
            }
        };
        let (a, b) = tokio::join!(joins.run(1, work), joins.run(1, work));
        assert_eq!((a.unwrap_err().as_str(), b.unwrap_err().as_str()), ("no", "no"));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let _ = joins.run(1, work).await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_outlives_its_caller() {
        let tasks = Tasks::default();
        let joins: Joins<u8, String> = Joins::new(tasks.clone());
        let done = Arc::new(AtomicU32::new(0));
        let flag = Arc::clone(&done);
        let work = || async move {
            tokio::time::sleep(Duration::from_secs(9)).await;
            flag.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let left = tokio::time::timeout(Duration::from_secs(1), joins.run(1, work)).await;
        assert!(left.is_err());
        tasks.drained().await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
