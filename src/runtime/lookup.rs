//! Finds objects by the ids in requests, which may be shortened.

use std::sync::Arc;

use super::{Error, Node, Result};
use crate::container::{Container, State};
use crate::log_keys::{LogKeys, add_keys};
use crate::sandbox::Sandbox;
use crate::store::Lookup;

impl Node {
    /// The sandbox with this id, or the only one whose id begins with it. From then on the task's log lines have its
    /// full id, or the one in the request if there is no such sandbox.
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = resolve("sandbox", "pod_sandbox_id", id, self.store.sandboxes.find(id));
        match &found {
            Ok(sandbox) => add_keys(sandbox.log_keys()),
            Err(_) => add_keys(&LogKeys::default().with_sandbox(id)),
        }
        found
    }

    /// The container with this id, or the only one whose id begins with it. From then on the task's log lines have its
    /// full id, or the one in the request if there is no such container.
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.other_container(id);
        match &found {
            Ok(container) => add_keys(self.log_keys(container)),
            Err(_) => add_keys(&LogKeys::default().with_container(id)),
        }
        found
    }

    /// Like [`Node::container`], but does not change the keys of the task's log lines, which are about another object.
    pub(super) fn other_container(&self, id: &str) -> Result<Arc<Container>> {
        resolve("container", "container_id", id, self.store.containers.find(id))
    }

    /// The keys of log lines about a container.
    pub(super) fn log_keys<'a>(&self, container: &'a Container) -> &'a LogKeys {
        container.log_keys(|| match self.store.sandbox(container.sandbox()) {
            Some(sandbox) => sandbox.log_keys().clone(),
            None => LogKeys::default().with_sandbox(container.sandbox().as_str()),
        })
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
