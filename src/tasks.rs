//! The only module that spawns tasks. Mutating operations are tracked, so that a drain can wait for them and none is
//! dropped halfway; background work is not tracked.

use std::future::Future;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::joined;
use crate::log_keys::inherit_keys;
use crate::telemetry::{Metrics, Operations, Outcome, Verb};

/// The result of an operation, for any number of callers. In tests, a panic of the operation reaches all of them.
pub type SharedResult<T> = Shared<BoxFuture<'static, T>>;

/// Tracks detached work. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    operations: TaskTracker,
    started: watch::Sender<u64>,
    named: Operations,
}

impl Tasks {
    /// Creates an empty set. How long the stages of operations take is reported to `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { named: Operations::new(metrics), ..Self::default() }
    }

    /// Gives an operation the name under which it is shown while it runs.
    pub fn run_named<F>(&self, verb: Verb, object: String, work: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future<Output: Outcome>,
    {
        self.named.track(verb, object, work)
    }

    /// The named operations that are running.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.named
    }

    /// Starts a mutating operation. It runs to its end even if the caller has gone, and [`Tasks::drained`] waits for
    /// it. Its log lines have the keys of the current task.
    pub fn operation<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.started.send_modify(|count| *count = count.wrapping_add(1));
        // The operation's spans become children of the call that started it.
        #[allow(clippy::disallowed_methods, reason = "this is the tracked spawn")]
        tokio::spawn(self.operations.track_future(inherit_keys(work.in_current_span())))
    }

    /// Starts an operation whose result more than one caller may wait for.
    pub fn shared_operation<F>(&self, work: F) -> SharedResult<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Clone + Send + Sync + 'static,
    {
        joined::result(self.operation(work)).boxed().shared()
    }

    /// Starts work that lasts as long as the process, such as watchers and log readers. A drain does not wait for it.
    /// Its log lines have the keys of the current task.
    pub fn background<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[allow(clippy::disallowed_methods, reason = "this is the tracked spawn")]
        tokio::spawn(inherit_keys(work))
    }

    /// The number of operations that are running.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// Changes each time an operation starts.
    #[must_use]
    pub fn started(&self) -> watch::Receiver<u64> {
        self.started.subscribe()
    }

    /// Resolves when no operation is running.
    pub async fn drained(&self) {
        self.operations.close();
        self.operations.wait().await;
    }
}
