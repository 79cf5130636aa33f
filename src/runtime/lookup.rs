//! Finds objects by the ids in requests, which may be shortened.

use std::sync::Arc;

use super::{Error, Node, Result};
use crate::container::{Container, State};
use crate::sandbox::Sandbox;
use crate::store::Lookup;

impl Node {
    /// The sandbox with this id, or the only one whose id begins with it.
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        resolve("sandbox", "pod_sandbox_id", id, self.store.sandboxes.find(id))
    }

    /// The container with this id, or the only one whose id begins with it.
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>> {
        resolve("container", "container_id", id, self.store.containers.find(id))
    }
}

fn resolve<T>(kind: &'static str, field: &'static str, id: &str, found: Lookup<T>) -> Result<Arc<T>> {
    if id.is_empty() {
        return Err(Error::missing_field(field));
    }
    match found {
        Lookup::Found(object) => Ok(object),
        Lookup::Missing => Err(Error::Missing { kind, id: id.to_owned() }),
        Lookup::Ambiguous => Err(Error::Ambiguous { kind, id: id.to_owned() }),
    }
}

/// Fails unless the container is running.
pub(super) fn require_running(container: &Container) -> Result<()> {
    match container.state() {
        State::Running { .. } => Ok(()),
        other => Err(Error::State {
            kind: "container",
            id: container.id().to_string(),
            state: other.name().to_owned(),
            wanted: "running",
        }),
    }
}

/// Turns [`Error::Missing`] into `None`, for Stop and Remove, which are idempotent.
pub(super) fn unless_missing<T>(found: Result<Arc<T>>) -> Result<Option<Arc<T>>> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
