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

/// How long a new mutating call waits for containerd to come back (rulings.md 10).
const CONTAINERD_PATIENCE: Duration = Duration::from_secs(5);

/// Commands of ExecSync that may wait for their turn. Each is a call that a client holds, and some KiB of ours.
const EXECS_WAITING: usize = 4096;
/// Commands that may be started at once, at least: each is a runc, and mostly processor time.
const EXEC_STARTS: usize = 16;

/// One node's runtime.
pub struct Node {
    /// The configuration.
    pub config: Config,
    /// containerd.
    pub containerd: Containerd,
    /// The image module.
    pub images: Images,
    /// The pods' networks.
    pub networks: Networks,
    /// Facts of the host that specs depend on.
    pub host: spec::Host,
    /// The built-in pause root.
    pub pause_root: PathBuf,
    /// The kernel's id of this boot.
    pub boot: String,
    /// How containers' standard streams are carried.
    pub streams: Arc<dyn Driver>,
    /// Tracks operations.
    pub tasks: Tasks,
    /// What is measured of us.
    pub metrics: Metrics,
    /// Whether containerd answers.
    pub health: watch::Receiver<bool>,
    /// Since when it does not.
    pub pulse: Pulse,
    /// What pods of each runtime handler may ask for, by the handler's name.
    pub features: HashMap<String, Features>,
    /// AppArmor's profiles.
    pub profiles: Profiles,
    /// SELinux levels of the pods.
    pub levels: Arc<Levels>,
    /// Commands that run, by sandbox and container.
    pub execs: Slots,
    /// Commands that are being started, by sandbox.
    pub exec_starts: Slots,
    /// Clients that are attached, and connections that are forwarded, by sandbox.
    pub streams_open: Slots,
    /// Turns for what is large.
    pub large: Large,
    /// Memory of what ExecSync answers.
    pub replies: Arc<ReplyBudget>,
    /// What is listed.
    pub store: Store,
    /// What pods and containers use.
    pub stats: Stats,
    /// Exits that the event stream told of.
    pub hints: Arc<ExitHints>,
    /// Makes owners of containerd's tasks.
    pub owner: Owner,
    /// What becomes of objects, for the subscribers of GetContainerEvents.
    pub events: Fanout,
    pub(super) new_sandboxes: Creations<Sandbox, Error, RunPodSandboxRequest>,
    pub(super) new_containers: Creations<Container, Error, CreateContainerRequest>,
    pub(super) changes: Joins<Change, Error>,
}

/// What a [`Node`] is made of.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// containerd.
    pub containerd: Containerd,
    /// The image module.
    pub images: Images,
    /// Sizes of layers, which the image module asks for too.
    pub layers: Layers,
    /// The pods' networks.
    pub networks: Networks,
    /// Facts of the host.
    pub host: spec::Host,
    /// The built-in pause root.
    pub pause_root: PathBuf,
    /// The kernel's id of this boot.
    pub boot: String,
    /// How containers' standard streams are carried.
    pub streams: Arc<dyn Driver>,
    /// Tracks operations.
    pub tasks: Tasks,
    /// What is measured of us.
    pub metrics: Metrics,
    /// Whether containerd answers.
    pub health: watch::Receiver<bool>,
    /// Since when it does not.
    pub pulse: Pulse,
    /// What pods of each runtime handler may ask for, by the handler's name.
    pub features: HashMap<String, Features>,
    /// AppArmor's profiles.
    pub profiles: Profiles,
}

/// Repeatable operations on one object; a second caller joins the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// StopPodSandbox.
    StopSandbox(SandboxId),
    /// RemovePodSandbox.
    RemoveSandbox(SandboxId),
    /// StopContainer.
    StopContainer(ContainerId),
    /// RemoveContainer.
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
    /// A node with an empty store; [`super::recover`] fills it.
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

    /// Joins the change of an object that runs, or starts it.
    ///
    /// # Errors
    /// The change's.
    pub(super) async fn change<F>(&self, change: Change, start: impl FnOnce() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (verb, object) = change.named();
        Ok(self.changes.run(change, || self.tasks.named(verb, object, start())).await?)
    }

    /// Does work of a verb to its end, also when its caller leaves.
    pub(super) async fn operation<F>(&self, verb: Verb, object: String, work: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let operation = self.tasks.operation(self.tasks.named(verb, object, work));
        // It is never aborted; its panic becomes the caller's.
        operation.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Waits for containerd, so that a mutating call does not start without it.
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

    /// The files of a sandbox.
    pub(super) fn paths(&self, sandbox: &Sandbox) -> SandboxPaths {
        SandboxPaths::new(&self.config.state, sandbox.id(), &sandbox.namespaces())
    }

    /// A container's directory of what survives a reboot: its image's volumes.
    pub(super) fn container_directory(&self, id: &ContainerId) -> PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }

    /// The runtime handler that a sandbox was made with.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nobody configured it (any more).
    pub(super) fn handler(&self, name: &str) -> Result<&Handler> {
        self.known_handler(name).map_err(|problem| Error::Invalid { field: "runtime_handler", problem })
    }

    /// The runtime handler of a name, the default one's of none; or what is wrong with the name.
    pub(super) fn known_handler(&self, name: &str) -> std::result::Result<&Handler, String> {
        self.config.handlers.get(name).ok_or_else(|| format!("no runtime handler {name:?} is configured"))
    }
}

/// How many commands are started at once, beside one of each pod.
fn exec_starts() -> usize {
    std::thread::available_parallelism().map_or(EXEC_STARTS, |processors| EXEC_STARTS.max(2 * processors.get()))
}
