//! A container's durable form: a container record in containerd. It is written before the snapshot, because its
//! snapshot_key keeps containerd's garbage collection from deleting the snapshot.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Exit, LARGEST_WHOLE, State};
use crate::api::encode_container;
use crate::api::v1::{self, ContainerConfig, ContainerMetadata, ImageSpec};
use crate::containerd::{self, Any};
use crate::ids::{ContainerId, SandboxId};

/// Extension key of the CRI config. Written once and never rewritten: prost would drop fields of a newer API.
const CONFIG: &str = "pontoon.container.config";
/// Extension key of what the CRI config does not contain.
const ABOUT: &str = "pontoon.container.about";
/// Extension key of the exit. Written before the task is deleted, so that the exit survives a reboot.
const EXIT: &str = "pontoon.container.exit";
const CONFIG_TYPE: &str = "runtime.v1.ContainerConfig";
const ABOUT_TYPE: &str = "pontoon.v1.ContainerAbout";
const EXIT_TYPE: &str = "pontoon.v1.ContainerExit";
/// The type name that containerd uses for an OCI spec.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The facts about a container that never change.
#[derive(Debug, Clone)]
pub struct Record {
    /// Also the key of the snapshot and the id of the task.
    pub id: ContainerId,
    pub sandbox: SandboxId,
    /// The request's config. If it is large, the copy in memory lacks what only the process needs: arguments and
    /// environment.
    pub config: ContainerConfig,
    /// Size of the whole config in bytes, as protobuf.
    pub config_size: usize,
    pub resolved: Resolved,
}

/// What was resolved when the container was created.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Resolved {
    /// Id of its sandbox.
    pub sandbox: String,
    /// A tag of the image at creation, for people to read: in containerd's record and in an annotation of the spec.
    pub image: String,
    /// The image's repository digest, reported as ContainerStatus.image_ref.
    pub image_ref: String,
    /// The image's config digest.
    pub image_id: String,
    /// Absolute path of the log; empty if there is none.
    pub log_path: String,
    /// The kernel's number of the stop signal.
    pub stop_signal: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Id of the boot in which it was created. What was started before a reboot has ended, and nothing observed its
    /// exit.
    #[serde(default)]
    pub boot: String,
    /// Ids of the mounted images, by the mount's index in the config.
    #[serde(default)]
    pub image_volumes: BTreeMap<usize, String>,
}

/// Why a container record was not written by Pontoon, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another program's record.
    #[error("the record has no extension {ABOUT}")]
    Foreign,
    /// Pontoon's record, but damaged.
    #[error("the record's extension {0} cannot be read")]
    Damaged(&'static str),
}

impl Record {
    /// A record with its whole config.
    #[must_use]
    pub fn new(id: ContainerId, sandbox: SandboxId, config: ContainerConfig, resolved: Resolved) -> Self {
        Self { id, sandbox, config_size: config.encoded_len(), config, resolved }
    }

    /// What is known from a damaged record: enough to list and remove the container. `None` if even its sandbox is
    /// not known.
    #[must_use]
    pub fn from_damaged(container: &containerd::Container) -> Option<Self> {
        let id = ContainerId::parse(&container.id).ok()?;
        let sandbox = SandboxId::parse(&container.sandbox).ok()?;
        // A unique name, so that no two damaged records share one.
        let metadata = ContainerMetadata { name: format!("damaged-{id}"), attempt: 0 };
        let config = ContainerConfig { metadata: Some(metadata), ..ContainerConfig::default() };
        let resolved =
            Resolved { sandbox: sandbox.to_string(), created_at: container.created_at, ..Resolved::default() };
        Some(Self::new(id, sandbox, config, resolved))
    }

    /// A substitute for a record that containerd cannot send because of its size, and of which only the id is known.
    /// It is read as a damaged record. Its sandbox is not known, so the container is listed in a sandbox with the
    /// container's own id.
    #[must_use]
    pub fn placeholder_for_too_large(id: String, snapshotter: &str) -> containerd::Container {
        let nothing = Any { type_url: ABOUT_TYPE.to_owned(), value: Vec::new() };
        containerd::Container {
            sandbox: id.clone(),
            snapshotter: snapshotter.to_owned(),
            snapshot_key: id.clone(),
            extensions: HashMap::from([(ABOUT.to_owned(), nothing)]),
            id,
            ..containerd::Container::default()
        }
    }

    /// The part of it that stays in memory.
    #[must_use]
    pub fn reduced(self) -> Self {
        if self.has_large_config() { Self { config: reduced(self.config), ..self } } else { self }
    }

    /// Whether its config is too large to stay in memory as a whole.
    #[must_use]
    pub fn has_large_config(&self) -> bool {
        self.config_size > LARGEST_WHOLE
    }

    /// The image as the request named it, which status and list report. If that name now means another image or none,
    /// the image id instead: crictl removes every image that no container's `image` refers to (docs/adr/0015).
    #[must_use]
    pub fn image_spec(&self, tag_has_moved: bool) -> ImageSpec {
        let requested = self.config.image.clone().unwrap_or_default();
        if tag_has_moved { ImageSpec { image: self.resolved.image_id.clone(), ..requested } } else { requested }
    }

    /// The name by which the request referred to the image. `None` if that was the image's id, which never means
    /// another image, or if the image is not known.
    #[must_use]
    pub fn image_name(&self) -> Option<&str> {
        let asked = self.config.image.as_ref().map(|image| image.image.as_str())?;
        (asked != self.resolved.image_id && !self.resolved.image_id.is_empty()).then_some(asked)
    }

    /// The encoded ListContainers item of it, without the state.
    #[must_use]
    pub fn listed(&self, tag_has_moved: bool) -> Bytes {
        encode_container(&v1::Container {
            id: self.id.to_string(),
            pod_sandbox_id: self.sandbox.to_string(),
            metadata: self.config.metadata.clone(),
            image: Some(self.image_spec(tag_has_moved)),
            // The id that PullImage returned: kubelet's image GC compares the two.
            image_ref: self.resolved.image_id.clone(),
            created_at: self.resolved.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.resolved.image_id.clone(),
            ..v1::Container::default()
        })
    }

    /// The extensions of its containerd record.
    #[must_use]
    pub fn extensions(&self) -> HashMap<String, Any> {
        // Serializing a struct of strings and numbers cannot fail.
        let resolved = serde_json::to_vec(&self.resolved).unwrap_or_default();
        HashMap::from([
            (CONFIG.to_owned(), Any { type_url: CONFIG_TYPE.to_owned(), value: self.config.encode_to_vec() }),
            (ABOUT.to_owned(), Any { type_url: ABOUT_TYPE.to_owned(), value: resolved }),
        ])
    }

    /// Reads a record back. The state is `Exited` if the record contains an exit, otherwise `Created`.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] for another program's record, [`RecordError::Damaged`] for one of ours that cannot be
    /// read.
    pub fn decode(container: &containerd::Container) -> Result<(Self, State), RecordError> {
        let resolved = container.extensions.get(ABOUT).ok_or(RecordError::Foreign)?;
        let id = ContainerId::parse(&container.id).map_err(|_| RecordError::Foreign)?;
        let resolved: Resolved = serde_json::from_slice(&resolved.value).map_err(|_| RecordError::Damaged(ABOUT))?;
        let sandbox = SandboxId::parse(&resolved.sandbox).map_err(|_| RecordError::Damaged(ABOUT))?;
        let config = container.extensions.get(CONFIG).ok_or(RecordError::Damaged(CONFIG))?;
        let config = ContainerConfig::decode(config.value.as_slice()).map_err(|_| RecordError::Damaged(CONFIG))?;
        let state = match container.extensions.get(EXIT) {
            Some(exit) => State::Exited(serde_json::from_slice(&exit.value).map_err(|_| RecordError::Damaged(EXIT))?),
            None => State::Created,
        };
        Ok((Self::new(id, sandbox, config, resolved), state))
    }
}

/// Removes from a config what only the process needs.
fn reduced(config: ContainerConfig) -> ContainerConfig {
    ContainerConfig { envs: Vec::new(), command: Vec::new(), args: Vec::new(), ..config }
}

/// The extension that stores how a container ended, and its path for the update's field mask.
#[must_use]
pub fn exit_extension(exit: &Exit) -> (HashMap<String, Any>, String) {
    let value = serde_json::to_vec(exit).unwrap_or_default();
    let any = Any { type_url: EXIT_TYPE.to_owned(), value };
    (HashMap::from([(EXIT.to_owned(), any)]), format!("extensions.{EXIT}"))
}

/// An OCI spec in the form that containerd's records store.
#[must_use]
pub fn spec_any(spec: &[u8]) -> Any {
    Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_vec() }
}
