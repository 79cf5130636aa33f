//! Version: the runtime's name and versions.

use crate::api::v1::VersionResponse;
use crate::runtime::Node;

/// Returns the runtime's name and version; kubelet shows them as `containerRuntimeVersion`.
#[must_use]
pub fn version(node: &Node) -> VersionResponse {
    VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: node.config.runtime_name.clone(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
