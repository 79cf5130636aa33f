//! The container object in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prost::bytes::Bytes;
use tokio::sync::watch;

use super::io::Streams;
use super::{Denied, Event, Record, SpecInMemory, State, Stop};
use crate::api::v1::ContainerMetadata;
use crate::cgroup::OomWatch;
use crate::ids::{ContainerId, SandboxId};
use crate::log_keys::LogKeys;
use crate::mutex::Mutex;
use crate::task::Task;

/// A container: its immutable record, its state and its streams.
pub struct Container {
    pub record: Record,
    /// Its encoded ListContainers item without the state, which list calls copy.
    pub listed: Bytes,
    /// Why its creation failed. Set only if the failed creation could not be undone completely.
    pub creation_error: OnceLock<Box<str>>,
    pub root: Root,
    /// The keys of log lines about it, from the first one on.
    log_keys: OnceLock<LogKeys>,
    /// The part of the OCI spec that stays in memory.
    spec: ArcSwap<SpecInMemory>,
    /// Held while the spec is changed or a task is created from it, so that the task always has the current spec.
    spec_lock: tokio::sync::Mutex<()>,
    /// The state. A watch channel, so that stop and remove are notified of the exit.
    state: watch::Sender<State>,
    /// Its task in containerd, or the task of an earlier start.
    task: Mutex<Arc<Task>>,
    /// Whether a removal has begun, after which the exit need not be written any more.
    is_removed: AtomicBool,
    /// Its standard streams while its task exists.
    streams: Mutex<Option<Arc<Streams>>>,
    /// Held while the streams are looked up after a restart.
    stream_lookup_lock: tokio::sync::Mutex<()>,
    /// Counts its OOM kills while its task exists.
    oom_watch: Mutex<Option<Arc<OomWatch>>>,
    /// The stop in progress, which a second one with a shorter grace period brings forward.
    stop: Mutex<Option<Arc<Stop>>>,
}

/// Where a container's root file system is, and its cgroup.
#[derive(Debug, Clone)]
pub struct Root {
    /// The snapshotter of the root file system's snapshot.
    pub snapshotter: String,
    /// Chain id of the image, which is the snapshot's parent.
    pub chain_id: String,
    /// The OCI `cgroupsPath`.
    pub cgroups_path: String,
}

impl Container {
    /// Creates the object, and reduces its record to the part that stays in memory.
    #[must_use]
    pub fn new(record: Record, root: Root, spec: SpecInMemory, state: State) -> Self {
        let record = record.reduced();
        Self {
            listed: record.listed(false),
            creation_error: OnceLock::new(),
            record,
            root,
            log_keys: OnceLock::new(),
            spec: ArcSwap::from_pointee(spec),
            spec_lock: tokio::sync::Mutex::default(),
            state: watch::Sender::new(state),
            task: Mutex::new(Task::none()),
            is_removed: AtomicBool::new(false),
            streams: Mutex::new(None),
            stream_lookup_lock: tokio::sync::Mutex::default(),
            oom_watch: Mutex::new(None),
            stop: Mutex::new(None),
        }
    }

    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.record.id
    }

    #[must_use]
    pub fn sandbox(&self) -> &SandboxId {
        &self.record.sandbox
    }

    /// The keys of log lines about it: those of its sandbox, which the first caller provides, and its id.
    pub fn log_keys(&self, of_sandbox: impl FnOnce() -> LogKeys) -> &LogKeys {
        self.log_keys.get_or_init(|| of_sandbox().with_container(self.id().as_str()))
    }

    /// The request's metadata, which was checked at creation.
    #[must_use]
    pub fn metadata(&self) -> ContainerMetadata {
        self.record.config.metadata.clone().unwrap_or_default()
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The result of `look` for the current state, without copying the state.
    pub fn in_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// A receiver of state changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Applies an event; returns whether it changed the state.
    ///
    /// # Errors
    /// [`Denied`] if the state does not allow the event.
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

    /// Resolves when no process of it can be alive.
    pub async fn ended(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.state.subscribe().wait_for(|state| !state.is_alive()).await;
    }

    /// Its task in containerd. If there is none, a [`Task`] that is already gone.
    #[must_use]
    pub fn task(&self) -> Arc<Task> {
        Arc::clone(&self.task.lock())
    }

    /// Sets its task. The previous task must be gone.
    pub fn set_task(&self, task: Arc<Task>) {
        *self.task.lock() = task;
    }

    /// Marks the container as being removed, and lets its task retry at once instead of waiting.
    pub fn begin_removal(&self) {
        self.is_removed.store(true, Ordering::Release);
        self.task().retry_now();
    }

    /// Whether a removal has begun.
    #[must_use]
    pub fn is_being_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// The part of the OCI spec that stays in memory.
    #[must_use]
    pub fn spec(&self) -> Arc<SpecInMemory> {
        self.spec.load_full()
    }

    /// Locks the spec, to change it or to create a task from it. Readers, such as list calls, do not need this lock.
    pub async fn lock_spec(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.spec_lock.lock().await
    }

    /// Replaces the spec after an update of its resources.
    pub fn set_spec(&self, spec: SpecInMemory) {
        self.spec.store(Arc::new(spec));
    }

    /// Its standard streams while its task exists.
    #[must_use]
    pub fn streams(&self) -> Option<Arc<Streams>> {
        self.streams.lock().clone()
    }

    /// Sets or removes its streams.
    pub fn set_streams(&self, streams: Option<Arc<Streams>>) {
        *self.streams.lock() = streams;
    }

    /// Locks the lookup of its streams, which must have only one reader.
    pub async fn lock_stream_lookup(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.stream_lookup_lock.lock().await
    }

    /// The counter of its OOM kills.
    #[must_use]
    pub fn oom_watch(&self) -> Option<Arc<OomWatch>> {
        self.oom_watch.lock().clone()
    }

    /// Sets or removes the counter of its OOM kills.
    pub fn set_oom_watch(&self, watch: Option<Arc<OomWatch>>) {
        *self.oom_watch.lock() = watch;
    }

    /// The stop in progress, brought forward if `grace` ends earlier; a new stop if none is in progress.
    #[must_use]
    pub fn join_stop(&self, grace: super::Grace) -> Arc<Stop> {
        let mut slot = self.stop.lock();
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
