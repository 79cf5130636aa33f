//! RemoveContainer: processes ended → task deleted → root file system → record.

use std::sync::Arc;

use crate::api::v1::{RemoveContainerRequest, RemoveContainerResponse};
use crate::cgroup;
use crate::container::{Container, Event, Grace, started};
use crate::events::Kind;
use crate::log_keys::add_keys;
use crate::runtime::container::holders;
use crate::runtime::container::volumes::remove_directory;
use crate::runtime::lookup::unless_missing;
use crate::runtime::rollback::with_creation_error;
use crate::runtime::{Error, Node, Repeatable, Result};
use crate::telemetry::{Stage, Verb, during};

/// Removes a container; a running one is killed. Removing an unknown one succeeds. The log stays: it belongs to
/// kubelet.
///
/// # Errors
/// The first step that failed. The container stays in the store: repeat the call.
pub async fn remove_container(node: &Arc<Node>, request: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
    if let Some(container) = unless_missing(node.container(&request.container_id))? {
        node.availability.ready(Verb::RemoveContainer).await?;
        node.remove(&container).await?;
    }
    Ok(RemoveContainerResponse {})
}

impl Node {
    /// Joins the removal in progress, or starts one.
    pub(crate) async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let operation = Repeatable::RemoveContainer(container.id().clone());
        let (node, object) = (Arc::clone(self), Arc::clone(container));
        let start = || async move { steps(&node, &object).await };
        let removed = self.in_flight.join_or_start(operation, start).await;
        removed.map_err(|error| with_creation_error(&**container, error))
    }
}

async fn steps(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    add_keys(node.log_keys(container));
    container.begin_removal();
    during(Stage::Stop, node.end_container(container, Grace::NONE)).await?;
    let id = container.id().as_str();
    // Denied if the container was started in between: kubelet repeats the call.
    node.apply_event(container, Event::RemoveRequested).map_err(|denied| Error::State {
        kind: "container",
        id: id.to_owned(),
        state: denied.0.name().to_owned(),
        wanted: "ended",
    })?;
    during(Stage::TaskDelete, holders::wait_until_deleted(container)).await?;
    cgroup::remove(&container.root.cgroups_path, node.host.facts.cgroup_v2);
    during(Stage::Volumes, node.remove_image_volumes(container)).await?;
    let removed = during(Stage::Snapshot, node.containerd.remove_snapshot(&container.root.snapshotter, id)).await;
    holders::with_holders(container, removed).await?;
    remove_directory(node.container_directory(container.id())).await?;
    // Before the record: if the daemon is killed in between, the next one finds the container, with its exit in the
    // record.
    started::remove(&node.config.state, container.id());
    during(Stage::Record, node.containerd.delete_container(id)).await?;
    node.store.containers.remove(id);
    node.announce_container(container, Kind::Deleted);
    node.owner.hints.forget(id);
    Ok(())
}
