//! UpdateContainerResources: the record's spec, then the running task; both or none.

use std::sync::Arc;

use super::pause::encode;
use super::{Error, Node, Result};
use crate::api::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use crate::container::{Container, State, spec_any};
use crate::containerd;
use crate::spec;

/// Changes what a created or running container may use.
///
/// # Errors
/// [`Error::State`] in another state; [`Error::Spec`] names a field. On an error nothing has changed.
pub async fn update_container_resources(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let container = node.container(&request.container_id)?;
    node.containerd_ready().await?;
    let update = request.linux.ok_or(Error::missing_field("linux"))?;
    let old = container.spec();
    let mut spec: oci_spec::runtime::Spec = serde_json::from_slice(&old).map_err(|error| Error::System {
        operation: "decode",
        path: "OCI spec".to_owned(),
        source: error.into(),
    })?;
    spec::update_resources(&mut spec, &update, &node.host)?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    let resources = serde_json::to_vec(&resources).map_err(|error| Error::System {
        operation: "encode",
        path: "resources".to_owned(),
        source: error.into(),
    })?;
    let new = encode(&spec)?;
    let shared = Arc::clone(node);
    let operation = node.tasks.operation(async move { shared.apply(&container, new, resources).await });
    // The operation is never aborted; its panic becomes the caller's.
    operation.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    Ok(UpdateContainerResourcesResponse {})
}

impl Node {
    async fn apply(&self, container: &Container, new: Vec<u8>, resources: Vec<u8>) -> Result<()> {
        let running = match container.state() {
            State::Created => false,
            State::Running { .. } => true,
            state @ (State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. }) => {
                return Err(Error::State {
                    kind: "container",
                    id: container.id().to_string(),
                    state: state.name().to_owned(),
                    wanted: "created or running",
                });
            }
        };
        let old = container.spec();
        self.write_spec(container, &new).await?;
        if running && let Err(error) = self.containerd.update_task(container.id().as_str(), resources).await {
            // The task has refused, so the record must not say otherwise.
            self.write_spec(container, &old).await?;
            return Err(error.into());
        }
        container.set_spec(new);
        Ok(())
    }

    async fn write_spec(&self, container: &Container, spec: &[u8]) -> Result<()> {
        let record = containerd::Container {
            id: container.id().to_string(),
            spec: Some(spec_any(spec)),
            ..containerd::Container::default()
        };
        Ok(self.containerd.update_container(record, &["spec"]).await?)
    }
}
