//! The one place that spawns: mutating operations and background work are tracked, so that
//! a drain can wait for them and nothing is dropped in the middle.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Tracks detached work. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    operations: TaskTracker,
    started: watch::Sender<u64>,
}

impl Tasks {
    /// Starts a mutating operation: it runs to its end even when whoever asked has gone, and
    /// [`Tasks::drained`] waits for it.
    pub fn operation<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.started.send_modify(|count| *count = count.wrapping_add(1));
        #[allow(clippy::disallowed_methods, reason = "this is the tracked spawn")]
        tokio::spawn(self.operations.track_future(work))
    }

    /// Starts work that lasts as long as the process: watchers, log readers. A drain does not wait for it.
    pub fn background<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[allow(clippy::disallowed_methods, reason = "this is the tracked spawn")]
        tokio::spawn(work)
    }

    /// How many operations run now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// Changes with each operation that starts.
    #[must_use]
    pub fn started(&self) -> watch::Receiver<u64> {
        self.started.subscribe()
    }

    /// Resolves when no operation runs any more.
    pub async fn drained(&self) {
        self.operations.close();
        self.operations.wait().await;
    }
}
