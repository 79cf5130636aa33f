//! RemovePodSandbox: stop → remove its containers → delete the records, the sandbox's last.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::api::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crate::events::Kind;
use crate::runtime::lookup::unless_missing;
use crate::runtime::rollback::with_creation_error;
use crate::runtime::{Node, Repeatable, Result};
use crate::sandbox::Sandbox;
use crate::telemetry::{Stage, Verb, during};

/// Removes a sandbox and everything in it. Removing an unknown one succeeds.
///
/// # Errors
/// The first step that failed. The sandbox stays in the store: repeat the call.
pub async fn remove_pod_sandbox(
    node: &Arc<Node>,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse> {
    if let Some(sandbox) = unless_missing(node.sandbox(&request.pod_sandbox_id))? {
        node.availability.ready(Verb::RemovePodSandbox).await?;
        let operation = Repeatable::RemoveSandbox(sandbox.id().clone());
        let (shared, object) = (Arc::clone(node), Arc::clone(&sandbox));
        let removed = node.in_flight.join_or_start(operation, || async move { steps(&shared, &object).await }).await;
        removed.map_err(|error| with_creation_error(&*sandbox, error))?;
    }
    Ok(RemovePodSandboxResponse {})
}

async fn steps(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    during(Stage::Stop, node.stop_sandbox(sandbox)).await?;
    let containers = node.store.containers_of(sandbox.id());
    let removals = containers.iter().map(|container| node.remove(container));
    during(Stage::Containers, join_all(removals)).await.into_iter().collect::<Result<Vec<()>>>()?;

    let id = sandbox.id().as_str();
    during(Stage::Record, async {
        node.containerd.delete_container(id).await?;
        node.containerd.delete_sandbox(id).await
    })
    .await?;
    node.store.sandboxes.remove(id);
    node.announce_sandbox(sandbox, Kind::Deleted);
    node.owner.hints.forget(id);
    Ok(())
}
