//! Resource updates of a sandbox after its creation. The stored config is not changed by them.

use std::collections::HashMap;

use prost::Message;

use crate::api::v1::{LinuxContainerResources, PodSandboxConfig, UpdatePodSandboxResourcesRequest};
use crate::containerd::{self, Any};
use crate::ids::SandboxId;

/// Extension key of the last update.
const RESOURCES: &str = "pontoon.sandbox.resources";
const RESOURCES_TYPE: &str = "runtime.v1.UpdatePodSandboxResourcesRequest";

/// The last update of a sandbox's resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// The resources of the sandbox itself.
    pub overhead: Option<LinuxContainerResources>,
    /// The sum of the resources of its containers.
    pub resources: Option<LinuxContainerResources>,
}

impl Resources {
    /// A record with only this extension, and its path for the update's field mask.
    #[must_use]
    pub fn extension(&self, id: &SandboxId) -> (containerd::Sandbox, String) {
        let message = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_string(),
            overhead: self.overhead.clone(),
            resources: self.resources.clone(),
        };
        let any = Any { type_url: RESOURCES_TYPE.to_owned(), value: message.encode_to_vec() };
        let extensions = HashMap::from([(RESOURCES.to_owned(), any)]);
        let record = containerd::Sandbox { id: id.to_string(), extensions, ..containerd::Sandbox::default() };
        (record, format!("extensions.{RESOURCES}"))
    }

    /// Reads the update back. `None` if there was none or it cannot be read, in which case the config applies.
    #[must_use]
    pub fn decode(record: &containerd::Sandbox) -> Option<Self> {
        let any = record.extensions.get(RESOURCES)?;
        let message = UpdatePodSandboxResourcesRequest::decode(any.value.as_slice()).ok()?;
        Some(Self { overhead: message.overhead, resources: message.resources })
    }

    /// Replaces the resources in a config; those that the update did not contain stay.
    #[must_use]
    pub fn applied_to(&self, mut config: PodSandboxConfig) -> PodSandboxConfig {
        let linux = config.linux.get_or_insert_default();
        linux.overhead = self.overhead.clone().or(linux.overhead.take());
        linux.resources = self.resources.clone().or(linux.resources.take());
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: i64) -> Option<LinuxContainerResources> {
        Some(LinuxContainerResources { memory_limit_in_bytes: bytes, ..LinuxContainerResources::default() })
    }

    #[test]
    fn an_update_comes_back_from_the_record_and_hides_only_what_it_says() {
        let update = Resources { overhead: None, resources: memory(2) };
        let (record, field) = update.extension(&SandboxId::random());
        assert_eq!(field, "extensions.pontoon.sandbox.resources");
        assert_eq!(Resources::decode(&record), Some(update.clone()));
        assert_eq!(Resources::decode(&containerd::Sandbox::default()), None);
        let first = Resources { overhead: memory(1), resources: memory(1) }.applied_to(PodSandboxConfig::default());
        let linux = update.applied_to(first).linux.unwrap();
        assert_eq!((linux.overhead, linux.resources), (memory(1), memory(2)));
    }
}
