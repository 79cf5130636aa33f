//! RemovePodSandbox: stop → remove its containers → delete the records, the sandbox's last.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::api::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crate::events::Kind;
use crate::runtime::lookup::unless_missing;
use crate::runtime::{Node, Repeatable, Result};
use crate::sandbox::Sandbox;
use crate::telemetry::{Stage, during};

/// Removes a sandbox and everything in it. Removing an unknown one succeeds.
///
/// # Errors
/// The first step that failed. The sandbox stays in the store: repeat the call.
pub async fn remove_pod_sandbox(
    node: &Arc<Node>,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse> {
    if let Some(sandbox) = unless_missing(node.sandbox(&request.pod_sandbox_id))? {
        node.availability.ready().await?;
        let operation = Repeatable::RemoveSandbox(sandbox.id().clone());
        let shared = Arc::clone(node);
        node.in_flight.join_or_start(operation, || async move { steps(&shared, &sandbox).await }).await?;
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
