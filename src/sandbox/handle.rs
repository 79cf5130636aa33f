//! The sandbox object in memory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use prost::bytes::Bytes;
use tokio::sync::watch;

use super::{Denied, Event, Record, Resources, State};
use crate::api::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata};
use crate::ids::SandboxId;
use crate::log_keys::LogKeys;
use crate::mutex::{Mutex, MutexGuard};
use crate::task::Task;
use crate::userns::Mapping;
use crate::{cgroup, spec};

/// A sandbox: its immutable record and its state.
#[derive(Debug)]
pub struct Sandbox {
    pub record: Record,
    /// The keys of log lines about it.
    log_keys: LogKeys,
    /// Its encoded ListPodSandbox item without the state, which list calls copy.
    pub listed: Bytes,
    /// Why its creation failed. Set only if the failed creation could not be undone completely.
    pub creation_error: OnceLock<Box<str>>,
    /// The state. A watch channel, so that a stop is notified when the pause process ends.
    state: watch::Sender<State>,
    /// Addresses of the pod, the primary one first; empty on the host network.
    addresses: Mutex<Vec<IpAddr>>,
    /// Whether event subscribers have been notified that it has ended.
    end_announced: AtomicBool,
    /// The last update of its resources.
    resources: ArcSwapOption<Resources>,
    /// Held while its record is written.
    record_lock: tokio::sync::Mutex<()>,
    /// containerd's task of the pause container.
    pause: Mutex<Arc<Task>>,
    /// Whether containerd may no longer know its shim, because the response to a call about one of its tasks was lost.
    shim_unknown: Arc<AtomicBool>,
}

impl Sandbox {
    #[must_use]
    pub fn new(record: Record, state: State, addresses: Vec<IpAddr>) -> Self {
        let metadata = record.config.metadata.as_ref();
        let pod = metadata.map(|pod| LogKeys::of_pod(&pod.namespace, &pod.name)).unwrap_or_default();
        Self {
            log_keys: pod.with_sandbox(record.id.as_str()),
            listed: record.listed(),
            creation_error: OnceLock::new(),
            record,
            state: watch::Sender::new(state),
            addresses: Mutex::new(addresses),
            end_announced: AtomicBool::new(false),
            resources: ArcSwapOption::empty(),
            record_lock: tokio::sync::Mutex::default(),
            pause: Mutex::new(Task::none()),
            shim_unknown: Arc::default(),
        }
    }

    /// A sandbox that an earlier daemon process created, which may have been killed while changing it.
    #[must_use]
    pub fn from_earlier_daemon(record: Record, state: State) -> Self {
        let shim_unknown = Arc::new(AtomicBool::new(true));
        Self { shim_unknown, ..Self::new(record, state, Vec::new()) }
    }

    /// The config with the last update of its resources applied.
    #[must_use]
    pub fn config_now(&self) -> PodSandboxConfig {
        let config = self.record.config.clone();
        match self.resources.load().as_ref() {
            Some(resources) => resources.applied_to(config),
            None => config,
        }
    }

    /// Stores an update of its resources that has already been written to its record.
    pub fn set_resources(&self, resources: Resources) {
        self.resources.store(Some(Arc::new(resources)));
    }

    /// Locks the writing of its record.
    pub async fn lock_record(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.record_lock.lock().await
    }

    /// containerd's task of the pause container. If there is none, a [`Task`] that is already gone.
    #[must_use]
    pub fn pause(&self) -> Arc<Task> {
        Arc::clone(&self.pause.lock())
    }

    /// Sets its pause task. The previous task must be gone.
    pub fn set_pause(&self, task: Arc<Task>) {
        *self.pause.lock() = task;
    }

    /// The flag that is set when the response to a call about one of its tasks was lost, and for every sandbox of an
    /// earlier daemon process. containerd may then no longer know its shim.
    #[must_use]
    pub fn shim_unknown_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shim_unknown)
    }

    /// Whether containerd may no longer know its shim.
    #[must_use]
    pub fn may_have_unknown_shim(&self) -> bool {
        self.shim_unknown.load(Ordering::Acquire)
    }

    /// Runs `act` while the sandbox is ready; a stop can begin only before or after it. `None` if the sandbox is not
    /// ready.
    pub fn while_ready<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        // Borrowing the value holds the channel's lock, so no event can change the state meanwhile.
        let state = self.state.borrow();
        state.is_ready().then(act)
    }

    /// True for the first call only: then the caller must notify event subscribers that the sandbox has ended.
    #[must_use]
    pub fn claim_end_event(&self) -> bool {
        !self.end_announced.swap(true, Ordering::AcqRel)
    }

    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.record.id
    }

    /// The keys of log lines about it: the pod, and its id.
    #[must_use]
    pub fn log_keys(&self) -> &LogKeys {
        &self.log_keys
    }

    #[must_use]
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Applies an event.
    ///
    /// # Errors
    /// [`Denied`] if the state does not allow the event.
    pub fn on(&self, event: Event) -> Result<State, Denied> {
        let mut result = Ok(self.state());
        self.state.send_if_modified(|state| {
            result = state.on(event);
            let changed = matches!(result, Ok(next) if next != *state);
            if let Ok(next) = result {
                *state = next;
            }
            changed
        });
        result
    }

    /// Host PID of the pause process while the sandbox is ready.
    #[must_use]
    pub fn pause_pid(&self) -> Option<u32> {
        match self.state() {
            State::Ready { pid } => Some(pid),
            State::Creating | State::Broken | State::Stopping | State::Stopped => None,
        }
    }

    /// The pod's addresses, the primary one first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock_addresses().clone()
    }

    /// Stores the addresses that the network plugins returned.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        *self.lock_addresses() = addresses;
    }

    /// The request's metadata, which was checked at creation.
    #[must_use]
    pub fn metadata(&self) -> PodSandboxMetadata {
        self.record.config.metadata.clone().unwrap_or_default()
    }

    /// The namespace options that the pod requested, with CRI's defaults.
    #[must_use]
    pub fn namespaces(&self) -> NamespaceOption {
        let linux = self.record.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    /// Whether the pod uses the host network.
    #[must_use]
    pub fn on_host_network(&self) -> bool {
        self.namespaces().network() == NamespaceMode::Node
    }

    /// The host ids of the pod's user namespace; `None` in the node's user namespace. Invalid options were refused
    /// when the sandbox was created.
    #[must_use]
    pub fn mapping(&self) -> Option<Mapping> {
        spec::user_namespace(&self.namespaces()).ok().flatten()
    }

    /// Where its network namespace is pinned. Derived from the id, not stored. `None` on the host network.
    #[must_use]
    pub fn netns(&self, netns_dir: &Path) -> Option<PathBuf> {
        let name = format!("pontoon-{}", self.id());
        (!self.on_host_network()).then(|| netns_dir.join(name))
    }

    /// The OCI `cgroupsPath` of a container of this pod, or of its pause container.
    #[must_use]
    pub fn cgroups_path(&self, id: &str) -> String {
        let parent = self.record.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        cgroup::cgroups_path(parent, id)
    }

    fn lock_addresses(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.addresses.lock()
    }
}
