//! The names by which a retry is recognized as the same operation (docs/rulings.md 2).

use crate::api::v1::{ContainerMetadata, PodSandboxMetadata};
use crate::ids::SandboxId;

/// A sandbox's name: name, namespace, uid and attempt. They are joined by `_`, which no Kubernetes name contains.
#[must_use]
pub fn sandbox_name(metadata: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    format!("{name}_{namespace}_{uid}_{attempt}")
}

/// A container's name: name and attempt within its sandbox.
#[must_use]
pub fn container_name(sandbox: &SandboxId, metadata: &ContainerMetadata) -> String {
    let ContainerMetadata { name, attempt } = metadata;
    format!("{name}_{sandbox}_{attempt}")
}
