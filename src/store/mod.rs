//! The in-memory store: the objects by id, id prefix and name, and the creations in progress.
//!
//! It is an index over containerd's records and is rebuilt from them at start. Reads use an immutable snapshot and
//! never wait for an operation.

mod creations;
mod index;
mod names;

use std::sync::Arc;

pub use creations::{Creation, Creations, Key, ListTarget, Outcome};
pub use index::{Index, Lookup, Object, Snapshot};
pub use names::{container_name, sandbox_name};

use crate::container::Container;
use crate::ids::{ContainerId, SandboxId};
use crate::sandbox::Sandbox;

/// All listed sandboxes and containers.
#[derive(Default)]
pub struct Store {
    pub sandboxes: Index<Sandbox>,
    pub containers: Index<Container>,
}

impl Object for Sandbox {
    fn id(&self) -> &str {
        Sandbox::id(self).as_str()
    }

    fn name(&self) -> String {
        sandbox_name(&self.metadata())
    }
}

impl Object for Container {
    fn id(&self) -> &str {
        Container::id(self).as_str()
    }

    fn name(&self) -> String {
        container_name(self.sandbox(), &self.metadata())
    }
}

impl Store {
    /// The containers of a sandbox, oldest first.
    #[must_use]
    pub fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let snapshot = self.containers.snapshot();
        let mut of: Vec<_> = snapshot.objects().filter(|container| container.sandbox() == sandbox).cloned().collect();
        of.sort_by_key(|container| container.record.resolved.created_at);
        of
    }

    /// The container with this full id.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.containers.get(id.as_str())
    }

    /// The sandbox with this full id.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId) -> Option<Arc<Sandbox>> {
        self.sandboxes.get(id.as_str())
    }
}
