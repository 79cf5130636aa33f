//! UpdatePodSandboxResources: stores in the sandbox's record what kubelet has changed in the pod's cgroup.

use std::sync::Arc;

use crate::api::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};
use crate::runtime::{Node, Result, record_size};
use crate::sandbox::Resources;
use crate::telemetry::Verb;

/// Stores a pod's new resources. kubelet itself manages the pod's cgroup, and no runtime that is driven by tasks has a
/// call for these resources; a verbose PodSandboxStatus shows them.
///
/// # Errors
/// [`crate::runtime::Error::Missing`] for an unknown id; [`crate::runtime::Error::Invalid`] if they are too large;
/// containerd's error if the record cannot be written: then nothing has changed.
pub async fn update_pod_sandbox_resources(
    node: &Arc<Node>,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    record_size::check_sandbox_update(request.overhead.as_ref(), request.resources.as_ref())?;
    node.availability.ready(Verb::UpdatePodSandboxResources).await?;
    let resources = Resources { overhead: request.overhead, resources: request.resources };
    let shared = Arc::clone(node);
    let id = sandbox.id().to_string();
    let work = async move {
        // One update at a time, so that memory has what was written last.
        let _lock = sandbox.lock_record().await;
        let (record, field) = resources.extension(sandbox.id());
        shared.containerd.update_sandbox(record, &[field.as_str()]).await?;
        sandbox.set_resources(resources);
        Ok(UpdatePodSandboxResourcesResponse {})
    };
    node.in_flight.operation(Verb::UpdatePodSandboxResources, id, work).await
}
