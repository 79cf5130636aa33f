//! The container in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prost::bytes::Bytes;
use tokio::sync::watch;

use super::io::Streams;
use super::{Denied, Event, KeptSpec, Record, State, Stop};
use crate::api::v1::ContainerMetadata;
use crate::cgroup::OomWatch;
use crate::ids::{ContainerId, SandboxId};
use crate::task::Task;

/// A container: what never changes of it, its state and its streams.
pub struct Container {
    /// What is known for its whole life.
    pub record: Record,
    /// Its item of ListContainers without the state, encoded: lists only copy it.
    pub listed: Bytes,
    /// Where its root comes from.
    pub root: Root,
    /// What is kept of the OCI spec.
    spec: ArcSwap<KeptSpec>,
    /// Held by whoever changes its spec or makes a task of it: the task must be of the spec that is known.
    turn: tokio::sync::Mutex<()>,
    /// Its state; a watch, so that a Stop and a Remove see the exit.
    state: watch::Sender<State>,
    /// containerd's task of it, or that of a start before.
    task: Mutex<Arc<Task>>,
    /// Whether a removal has begun: then its exit need not be written any more.
    is_removed: AtomicBool,
    /// Standard streams while its task lives.
    streams: Mutex<Option<Arc<dyn Streams>>>,
    /// Held by whoever looks for them after a restart.
    finding_streams: tokio::sync::Mutex<()>,
    /// Watches its memory while its task lives.
    oom_watch: Mutex<Option<Arc<OomWatch>>>,
    /// The stop that runs, so that a second one with a shorter grace shortens it.
    stop: Mutex<Option<Arc<Stop>>>,
}

/// Where a container's root comes from.
#[derive(Debug, Clone)]
pub struct Root {
    /// The snapshotter that has the root.
    pub snapshotter: String,
    /// Chain id of the image, the snapshot's parent.
    pub chain_id: String,
    /// The OCI `cgroupsPath`.
    pub cgroups_path: String,
}

impl Container {
    /// A container in a state, and in memory what is kept of its record and spec.
    #[must_use]
    pub fn new(record: Record, root: Root, spec: KeptSpec, state: State) -> Self {
        let record = record.kept();
        Self {
            listed: record.listed(false),
            record,
            root,
            spec: ArcSwap::from_pointee(spec),
            turn: tokio::sync::Mutex::default(),
            state: watch::Sender::new(state),
            task: Mutex::new(Task::none()),
            is_removed: AtomicBool::new(false),
            streams: Mutex::new(None),
            finding_streams: tokio::sync::Mutex::default(),
            oom_watch: Mutex::new(None),
            stop: Mutex::new(None),
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.record.id
    }

    /// The sandbox it is in.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxId {
        &self.record.sandbox
    }

    /// The request's metadata; checked when the container was made.
    #[must_use]
    pub fn metadata(&self) -> ContainerMetadata {
        self.record.config.metadata.clone().unwrap_or_default()
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What `look` says of the state now; without a copy of it.
    pub fn in_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Follows the state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Tells it of an event; whether that changed its state.
    ///
    /// # Errors
    /// [`Denied`] when the state does not allow it.
    pub fn on(&self, event: Event) -> Result<bool, Denied> {
        let mut denied = None;
        let changed = self.state.send_if_modified(|state| match state.clone().on(event) {
            Ok(next) if next != *state => {
                *state = next;
                true
            }
            Ok(_) => false,
            Err(error) => {
                denied = Some(error);
                false
            }
        });
        denied.map_or(Ok(changed), Err)
    }

    /// Resolves when no process of it may be alive.
    pub async fn ended(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.state.subscribe().wait_for(|state| !state.is_alive()).await;
    }

    /// containerd's task of it; one that is gone when there is none.
    #[must_use]
    pub fn task(&self) -> Arc<Task> {
        Arc::clone(&self.task.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands it its task. The one before must be gone.
    pub fn set_task(&self, task: Arc<Task>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }

    /// Says that a removal has begun.
    pub fn begin_removal(&self) {
        self.is_removed.store(true, Ordering::Release);
        self.task().hurry();
    }

    /// Whether a removal has begun.
    #[must_use]
    pub fn is_being_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// What is kept of the OCI spec.
    #[must_use]
    pub fn spec(&self) -> Arc<KeptSpec> {
        self.spec.load_full()
    }

    /// Waits for the turn to change the spec, or to make a task of it. Only they wait: what is listed is read without.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Replaces the spec, after an update of its resources.
    pub fn set_spec(&self, spec: KeptSpec) {
        self.spec.store(Arc::new(spec));
    }

    /// Its standard streams while its task lives.
    #[must_use]
    pub fn streams(&self) -> Option<Arc<dyn Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands it its streams, or takes them away.
    pub fn set_streams(&self, streams: Option<Arc<dyn Streams>>) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = streams;
    }

    /// Waits for the turn to look for its streams, of which there is one reader.
    pub async fn finding_streams(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.finding_streams.lock().await
    }

    /// Who watches its memory.
    #[must_use]
    pub fn oom_watch(&self) -> Option<Arc<OomWatch>> {
        self.oom_watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands it who watches its memory, or takes it away.
    pub fn set_oom_watch(&self, watch: Option<Arc<OomWatch>>) {
        *self.oom_watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    /// The stop that runs, with its grace shortened if `grace` ends earlier; a new one if none runs.
    #[must_use]
    pub fn join_stop(&self, grace: super::Grace) -> Arc<Stop> {
        let mut slot = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = slot.as_ref().filter(|stop| stop.shorten(grace)) {
            return Arc::clone(stop);
        }
        let stop = Arc::new(Stop::new(grace));
        *slot = Some(Arc::clone(&stop));
        stop
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("id", self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}
