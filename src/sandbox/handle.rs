//! The sandbox in memory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use prost::bytes::Bytes;
use tokio::sync::watch;

use super::{Denied, Event, Record, Resources, State};
use crate::api::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata};
use crate::ids::SandboxId;
use crate::task::Task;
use crate::userns::Mapping;
use crate::{cgroup, spec};

/// A sandbox: what never changes of it, and its state.
#[derive(Debug)]
pub struct Sandbox {
    /// What is known for its whole life.
    pub record: Record,
    /// Its item of ListPodSandbox without the state, encoded: lists only copy it.
    pub listed: Bytes,
    /// Its state; a watch, so that a Stop sees the pause process end.
    state: watch::Sender<State>,
    /// Addresses of the pod, the primary first; empty on the host's network.
    addresses: Mutex<Vec<IpAddr>>,
    /// Whether subscribers of events know that it has ended.
    end_told: AtomicBool,
    /// The last update of its resources.
    resources: ArcSwapOption<Resources>,
    /// Held by whoever writes its record.
    turn: tokio::sync::Mutex<()>,
    /// containerd's task of the pause container.
    pause: Mutex<Arc<Task>>,
    /// Whether containerd may have forgotten its shim: an answer about one of its tasks was lost.
    doubt: Arc<AtomicBool>,
}

impl Sandbox {
    /// A sandbox in a state.
    #[must_use]
    pub fn new(record: Record, state: State, addresses: Vec<IpAddr>) -> Self {
        Self {
            listed: record.listed(),
            record,
            state: watch::Sender::new(state),
            addresses: Mutex::new(addresses),
            end_told: AtomicBool::new(false),
            resources: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
            pause: Mutex::new(Task::none()),
            doubt: Arc::default(),
        }
    }

    /// A sandbox that a process before this one made, and perhaps was killed in the middle of changing.
    #[must_use]
    pub fn inherited(record: Record, state: State) -> Self {
        let doubt = Arc::new(AtomicBool::new(true));
        Self { doubt, ..Self::new(record, state, Vec::new()) }
    }

    /// The config with the last update of its resources.
    #[must_use]
    pub fn config_now(&self) -> PodSandboxConfig {
        let config = self.record.config.clone();
        match self.resources.load().as_ref() {
            Some(resources) => resources.over(config),
            None => config,
        }
    }

    /// Remembers an update of its resources, which its record has already.
    pub fn set_resources(&self, resources: Resources) {
        self.resources.store(Some(Arc::new(resources)));
    }

    /// Waits for the turn to write its record.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// containerd's task of the pause container; one that is gone when there is none.
    #[must_use]
    pub fn pause(&self) -> Arc<Task> {
        Arc::clone(&self.pause.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands it its pause task. The one before must be gone.
    pub fn set_pause(&self, task: Arc<Task>) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }

    /// Set when an answer about one of its tasks was lost, and for a sandbox of a former process: then containerd may
    /// have forgotten its shim.
    #[must_use]
    pub fn doubt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.doubt)
    }

    /// Whether containerd may have forgotten its shim.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.load(Ordering::Acquire)
    }

    /// Does something while it is ready, and stays so: a Stop begins before or after. `None` when it is not ready.
    pub fn while_ready<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        // The value's lock is held while this lives, so no event changes the state meanwhile.
        let state = self.state.borrow();
        state.is_ready().then(act)
    }

    /// Whether nobody was told yet that it has ended; only once.
    #[must_use]
    pub fn end_is_news(&self) -> bool {
        !self.end_told.swap(true, Ordering::AcqRel)
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.record.id
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Tells it of an event.
    ///
    /// # Errors
    /// [`Denied`] when the state does not allow it.
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
            State::Making | State::Dead | State::Stopping | State::Stopped => None,
        }
    }

    /// The pod's addresses, the primary first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock_addresses().clone()
    }

    /// Remembers what the network gave.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        *self.lock_addresses() = addresses;
    }

    /// The request's metadata; checked when the sandbox was made.
    #[must_use]
    pub fn metadata(&self) -> PodSandboxMetadata {
        self.record.config.metadata.clone().unwrap_or_default()
    }

    /// The namespaces that the pod asked for, with CRI's defaults.
    #[must_use]
    pub fn namespaces(&self) -> NamespaceOption {
        let linux = self.record.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    /// Whether the pod uses the host's network.
    #[must_use]
    pub fn on_host_network(&self) -> bool {
        self.namespaces().network() == NamespaceMode::Node
    }

    /// What the pod's ids are on the host; `None` in the node's user namespace. A config that says it wrongly was refused
    /// when the sandbox was made.
    #[must_use]
    pub fn mapping(&self) -> Option<Mapping> {
        spec::user_namespace(&self.namespaces()).ok().flatten()
    }

    /// Where its network namespace is pinned; derived from the id, never stored.
    /// `None` on the host's network.
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
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
