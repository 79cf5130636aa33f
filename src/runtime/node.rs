//! What the verbs share: the store, the modules below, and the operations in flight.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::large::Large;
use super::{Error, Features, Result};
use crate::api::v1::{CreateContainerRequest, RunPodSandboxRequest};
use crate::config::{Config, Handler};
use crate::container::Container;
use crate::container::io::{Driver, REPLY_CAP, ReplyBudget};
use crate::containerd::Containerd;
use crate::events::{Fanout, Pulse};
use crate::ids::{ContainerId, SandboxId};
use crate::images::Images;
use crate::lsm::apparmor::Profiles;
use crate::lsm::selinux::Levels;
use crate::network::Networks;
use crate::sandbox::{Sandbox, SandboxPaths};
use crate::slots::{Bounds, Slots};
use crate::spec;
use crate::stats::{Layers, Stats};
use crate::store::{Creations, Joins, Store};
use crate::task::{ExitHints, Owner};
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, Verb};

/// How long a new mutating call waits for containerd to come back (docs/rulings.md 10).
const CONTAINERD_PATIENCE: Duration = Duration::from_secs(5);

/// How many ExecSync commands may wait for a slot. Each is a call that a client holds open, and some KiB of our memory.
const EXECS_WAITING: usize = 4096;
/// How many commands may be started at once on a small node: each start is a run of runc, and mostly processor time.
const EXEC_STARTS: usize = 16;

/// The runtime of one node.
pub struct Node {
    pub config: Config,
    pub containerd: Containerd,
    pub images: Images,
    pub networks: Networks,
    /// Facts of the host that specs depend on.
    pub host: spec::Host,
    /// The directory of the built-in root file system for pause containers.
    pub pause_root: PathBuf,
    /// The kernel's id of this boot.
    pub boot: String,
    /// Carries the standard streams of containers.
    pub streams: Arc<dyn Driver>,
    /// Spawns operations and background work.
    pub tasks: Tasks,
    /// Metrics of Pontoon itself.
    pub metrics: Metrics,
    /// Whether containerd responds.
    pub health: watch::Receiver<bool>,
    /// For how long containerd has not responded.
    pub pulse: Pulse,
    /// What pods of each runtime handler may request, by the handler's name.
    pub features: HashMap<String, Features>,
    /// AppArmor profiles.
    pub profiles: Profiles,
    /// SELinux levels of the pods.
    pub levels: Arc<Levels>,
    /// Slots for running commands, by sandbox and container.
    pub execs: Slots,
    /// Slots for commands that are being started, by sandbox.
    pub exec_starts: Slots,
    /// Slots for attached clients and forwarded connections, by sandbox.
    pub streams_open: Slots,
    /// Permits to work on large containers.
    pub large: Large,
    /// Memory budget for the replies of ExecSync.
    pub replies: Arc<ReplyBudget>,
    /// The sandboxes and containers, as an index over containerd's records.
    pub store: Store,
    /// What pods and containers use.
    pub stats: Stats,
    /// Exits that containerd's event stream has reported.
    pub hints: Arc<ExitHints>,
    /// Creates the owners of containerd's tasks.
    pub owner: Owner,
    /// What happens to objects, for the subscribers of GetContainerEvents.
    pub events: Fanout,
    pub(super) new_sandboxes: Creations<Sandbox, Error, RunPodSandboxRequest>,
    pub(super) new_containers: Creations<Container, Error, CreateContainerRequest>,
    pub(super) changes: Joins<Change, Error>,
}

/// The parts of a [`Node`]. A field without a comment becomes the field of the same name.
pub struct Parts {
    pub config: Config,
    pub containerd: Containerd,
    pub images: Images,
    /// Sizes of layers, which the image module uses too.
    pub layers: Layers,
    pub networks: Networks,
    pub host: spec::Host,
    pub pause_root: PathBuf,
    pub boot: String,
    pub streams: Arc<dyn Driver>,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub health: watch::Receiver<bool>,
    pub pulse: Pulse,
    pub features: HashMap<String, Features>,
    pub profiles: Profiles,
}

/// Operations on one object that may be repeated; a second caller joins the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    StopSandbox(SandboxId),
    RemoveSandbox(SandboxId),
    StopContainer(ContainerId),
    RemoveContainer(ContainerId),
}

impl Change {
    fn named(&self) -> (Verb, String) {
        match self {
            Self::StopSandbox(id) => (Verb::StopPodSandbox, id.to_string()),
            Self::RemoveSandbox(id) => (Verb::RemovePodSandbox, id.to_string()),
            Self::StopContainer(id) => (Verb::StopContainer, id.to_string()),
            Self::RemoveContainer(id) => (Verb::RemoveContainer, id.to_string()),
        }
    }
}

impl Node {
    /// Creates a node with an empty store; [`super::recover`] fills it.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let tasks = parts.tasks;
        let limits = parts.config.limits;
        let levels = Levels::new(parts.config.selinux.category_range);
        let hints = Arc::<ExitHints>::default();
        let owner = Owner {
            containerd: parts.containerd.clone(),
            health: parts.health.clone(),
            hints: Arc::clone(&hints),
            tasks: tasks.clone(),
        };
        let stats = Stats::new(parts.host.cgroup_v2, parts.layers, tasks.clone());
        Arc::new(Self {
            config: parts.config,
            containerd: parts.containerd,
            images: parts.images,
            networks: parts.networks,
            host: parts.host,
            pause_root: parts.pause_root,
            boot: parts.boot,
            streams: parts.streams,
            features: parts.features,
            profiles: parts.profiles,
            levels,
            execs: Slots::new(Bounds {
                reserve: limits.exec_sync_reserve,
                per_object: limits.execs_per_container,
                waiting: EXECS_WAITING,
                ..Bounds::shared(limits.execs)
            }),
            exec_starts: Slots::new(Bounds { reserve: 1, ..Bounds::shared(exec_starts()) }),
            streams_open: Slots::new(Bounds {
                per_object: limits.streams_per_object,
                ..Bounds::shared(limits.streams)
            }),
            large: Large::default(),
            replies: ReplyBudget::new(limits.exec_reply_budget << 20, REPLY_CAP),
            health: parts.health,
            pulse: parts.pulse,
            metrics: parts.metrics,
            store: Store::default(),
            stats,
            hints,
            owner,
            events: Fanout::default(),
            new_sandboxes: Creations::new(tasks.clone()),
            new_containers: Creations::new(tasks.clone()),
            changes: Joins::new(tasks.clone()),
            tasks,
        })
    }

    /// Joins the operation in progress for this change, or starts it.
    ///
    /// # Errors
    /// The error of the operation.
    pub(super) async fn change<F>(&self, change: Change, start: impl FnOnce() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (verb, object) = change.named();
        Ok(self.changes.run(change, || self.tasks.named(verb, object, start())).await?)
    }

    /// Runs a verb's work to its end, even if the caller leaves.
    pub(super) async fn operation<F>(&self, verb: Verb, object: String, work: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let operation = self.tasks.operation(self.tasks.named(verb, object, work));
        // The operation is never aborted. If it panics, so does the caller.
        operation.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Waits until containerd responds, so that a mutating call does not start without it.
    ///
    /// # Errors
    /// [`Error::ContainerdAway`] after 5 seconds.
    pub(super) async fn containerd_ready(&self) -> Result<()> {
        let mut health = self.health.clone();
        let up = health.wait_for(|up| *up);
        match tokio::time::timeout(CONTAINERD_PATIENCE, up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::ContainerdAway(CONTAINERD_PATIENCE)),
        }
    }

    /// The paths of a sandbox's files.
    pub(super) fn paths(&self, sandbox: &Sandbox) -> SandboxPaths {
        SandboxPaths::new(&self.config.state, sandbox.id(), &sandbox.namespaces())
    }

    /// A container's directory for what survives a reboot: the VOLUMEs of its image.
    pub(super) fn container_directory(&self, id: &ContainerId) -> PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }

    /// The runtime handler that a sandbox was created with.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not configured, or no longer.
    pub(super) fn handler(&self, name: &str) -> Result<&Handler> {
        self.known_handler(name).map_err(|problem| Error::Invalid { field: "runtime_handler", problem })
    }

    /// The runtime handler with this name, or the default one if the name is empty. The error says what is wrong with
    /// the name.
    pub(super) fn known_handler(&self, name: &str) -> std::result::Result<&Handler, String> {
        self.config.handlers.get(name).ok_or_else(|| format!("no runtime handler {name:?} is configured"))
    }
}

/// How many commands may be started at once, in addition to one for each pod.
fn exec_starts() -> usize {
    std::thread::available_parallelism().map_or(EXEC_STARTS, |processors| EXEC_STARTS.max(2 * processors.get()))
}
