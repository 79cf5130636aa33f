//! The one place that spawns: mutating operations and background work are tracked, so that
//! a drain can wait for them and nothing is dropped in the middle.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::telemetry::{Metrics, Operations, Verb};

/// Tracks detached work. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    operations: TaskTracker,
    started: watch::Sender<u64>,
    named: Operations,
}

impl Tasks {
    /// Nothing runs; how long stages of operations take is told to `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { named: Operations::new(metrics), ..Self::default() }
    }

    /// Gives work of an operation its name, under which it is seen while it runs.
    pub fn named<F: Future>(&self, verb: Verb, object: String, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.named.track(verb, object, work)
    }

    /// The operations that have names.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.named
    }

    /// Starts a mutating operation: it runs to its end even when whoever asked has gone, and
    /// [`Tasks::drained`] waits for it.
    pub fn operation<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.started.send_modify(|count| *count = count.wrapping_add(1));
        // Traces go on in it, below the call that began it.
        #[allow(clippy::disallowed_methods, reason = "this is the tracked spawn")]
        tokio::spawn(self.operations.track_future(work.in_current_span()))
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
