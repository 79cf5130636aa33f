//! What the verbs share.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Availability, Error, Host, InFlight, Limits, Result};
use crate::config::{Config, Handler};
use crate::container::io::Fifo;
use crate::containerd::Containerd;
use crate::events::Fanout;
use crate::ids::ContainerId;
use crate::images::Images;
use crate::lsm::selinux::Levels;
use crate::network::Networks;
use crate::sandbox::{Sandbox, SandboxPaths};
use crate::stats::Stats;
use crate::store::Store;
use crate::task::Owner;
use crate::tasks::Tasks;

/// The runtime of one node. Each field is a part that a function can take alone.
pub struct Node {
    pub config: Config,
    pub host: Host,
    pub containerd: Containerd,
    pub availability: Availability,
    pub images: Images,
    pub networks: Networks,
    /// Carries the standard streams of containers.
    pub streams: Fifo,
    /// SELinux levels of the pods.
    pub levels: Arc<Levels>,
    pub limits: Limits,
    /// The sandboxes and containers, as an index over containerd's records. [`super::recover`] fills it.
    pub store: Store,
    /// What pods and containers use.
    pub stats: Stats,
    /// Creates the owners of containerd's tasks.
    pub owner: Owner,
    /// What happens to objects, for the subscribers of GetContainerEvents.
    pub events: Fanout,
    /// Spawns operations and background work.
    pub tasks: Tasks,
    pub in_flight: InFlight,
}

impl Node {
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
