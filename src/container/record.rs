//! A container's durable form: a containerd container record, written before its snapshot
//! (which the record's snapshot_key then keeps from containerd's GC).

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Exit, LARGEST_WHOLE, State};
use crate::api::encode_container;
use crate::api::v1::{self, ContainerConfig, ContainerMetadata, ImageSpec};
use crate::containerd::{self, Any};
use crate::ids::{ContainerId, SandboxId};

/// Key of the CRI config. Its bytes are written once: prost would drop fields of a newer API.
const CONFIG: &str = "pontoon.container.config";
/// Key of what CRI's config does not say.
const ABOUT: &str = "pontoon.container.about";
/// Key of the exit, written before the task is deleted so that it survives a reboot.
const EXIT: &str = "pontoon.container.exit";
const CONFIG_TYPE: &str = "runtime.v1.ContainerConfig";
const ABOUT_TYPE: &str = "pontoon.v1.ContainerAbout";
const EXIT_TYPE: &str = "pontoon.v1.ContainerExit";
/// Type name under which containerd knows an OCI spec.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// What is known of a container for its whole life.
#[derive(Debug, Clone)]
pub struct Record {
    /// The id; also the snapshot's key and the task's id.
    pub id: ContainerId,
    /// The sandbox it is in.
    pub sandbox: SandboxId,
    /// The request's config. In memory a large one lacks what only its process needs: arguments and environment.
    pub config: ContainerConfig,
    /// Bytes of the whole config as protobuf.
    pub config_size: usize,
    /// What was resolved when it was made.
    pub about: About,
}

/// What was resolved when the container was made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct About {
    /// The sandbox it is in.
    pub sandbox: String,
    /// A tag of the image when the container was made, for people: in containerd's record and the spec's annotation.
    pub image: String,
    /// Its repository digest, as ContainerStatus.image_ref shows it.
    pub image_ref: String,
    /// Config digest.
    pub image_id: String,
    /// Absolute path of the log; empty for none.
    pub log_path: String,
    /// Number of the signal that asks it to stop.
    pub stop_signal: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The boot it was made in: what was started before a reboot has ended, seen by nobody.
    #[serde(default)]
    pub boot: String,
    /// Ids of the images that are mounted, by the mount's place in the config.
    #[serde(default)]
    pub image_volumes: BTreeMap<usize, String>,
}

/// Why a container record is not one of ours, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Somebody else's.
    #[error("it has no extension {ABOUT}")]
    Foreign,
    /// Ours, but damaged.
    #[error("its extension {0} cannot be read")]
    Damaged(&'static str),
}

impl Record {
    /// With its whole config.
    #[must_use]
    pub fn new(id: ContainerId, sandbox: SandboxId, config: ContainerConfig, about: About) -> Self {
        Self { id, sandbox, config_size: config.encoded_len(), config, about }
    }

    /// What can be said of a damaged record: enough to list and remove it. `None` when even
    /// its sandbox is not known.
    #[must_use]
    pub fn nameless(container: &containerd::Container) -> Option<Self> {
        let id = ContainerId::parse(&container.id).ok()?;
        let sandbox = SandboxId::parse(&container.sandbox).ok()?;
        // A name of its own, so that two damaged records do not share one.
        let metadata = ContainerMetadata { name: format!("damaged-{id}"), attempt: 0 };
        let config = ContainerConfig { metadata: Some(metadata), ..ContainerConfig::default() };
        let about = About { sandbox: sandbox.to_string(), created_at: container.created_at, ..About::default() };
        Some(Self::new(id, sandbox, config, about))
    }

    /// Stands for a record that containerd cannot send, of which nothing but the id is known: it is read as a damaged one. As
    /// its sandbox is not known, it is listed in one of its own id.
    #[must_use]
    pub fn too_large(id: String, snapshotter: &str) -> containerd::Container {
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

    /// What of it is kept in memory.
    #[must_use]
    pub fn kept(self) -> Self {
        if self.has_large_config() { Self { config: reduced(self.config), ..self } } else { self }
    }

    /// Whether its config is too large to be kept in memory whole.
    #[must_use]
    pub fn has_large_config(&self) -> bool {
        self.config_size > LARGEST_WHOLE
    }

    /// The image as it was asked for, which is what status and list show. Of one whose name means another image by now, or
    /// none, the id: crictl removes what no container's `image` means (docs/adr/0015).
    #[must_use]
    pub fn image_spec(&self, has_moved: bool) -> ImageSpec {
        let requested = self.config.image.clone().unwrap_or_default();
        if has_moved { ImageSpec { image: self.about.image_id.clone(), ..requested } } else { requested }
    }

    /// What its image was asked for by, if that is a name, which may come to mean another image.
    #[must_use]
    pub fn image_name(&self) -> Option<&str> {
        let asked = self.config.image.as_ref().map(|image| image.image.as_str())?;
        (asked != self.about.image_id && !self.about.image_id.is_empty()).then_some(asked)
    }

    /// What ListContainers shows of it, encoded, but for the state.
    #[must_use]
    pub fn listed(&self, has_moved: bool) -> Bytes {
        encode_container(&v1::Container {
            id: self.id.to_string(),
            pod_sandbox_id: self.sandbox.to_string(),
            metadata: self.config.metadata.clone(),
            image: Some(self.image_spec(has_moved)),
            // What PullImage answered: kubelet's image GC compares them.
            image_ref: self.about.image_id.clone(),
            created_at: self.about.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.about.image_id.clone(),
            ..v1::Container::default()
        })
    }

    /// The extensions of its containerd record.
    #[must_use]
    pub fn extensions(&self) -> HashMap<String, Any> {
        // A struct of strings and numbers always serializes.
        let about = serde_json::to_vec(&self.about).unwrap_or_default();
        HashMap::from([
            (CONFIG.to_owned(), Any { type_url: CONFIG_TYPE.to_owned(), value: self.config.encode_to_vec() }),
            (ABOUT.to_owned(), Any { type_url: ABOUT_TYPE.to_owned(), value: about }),
        ])
    }

    /// Reads a record back, with the exit if it has ended.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] for somebody else's, [`RecordError::Damaged`] for ours that cannot be read.
    pub fn decode(container: &containerd::Container) -> Result<(Self, State), RecordError> {
        let about = container.extensions.get(ABOUT).ok_or(RecordError::Foreign)?;
        let id = ContainerId::parse(&container.id).map_err(|_| RecordError::Foreign)?;
        let about: About = serde_json::from_slice(&about.value).map_err(|_| RecordError::Damaged(ABOUT))?;
        let sandbox = SandboxId::parse(&about.sandbox).map_err(|_| RecordError::Damaged(ABOUT))?;
        let config = container.extensions.get(CONFIG).ok_or(RecordError::Damaged(CONFIG))?;
        let config = ContainerConfig::decode(config.value.as_slice()).map_err(|_| RecordError::Damaged(CONFIG))?;
        let state = match container.extensions.get(EXIT) {
            Some(exit) => State::Exited(serde_json::from_slice(&exit.value).map_err(|_| RecordError::Damaged(EXIT))?),
            None => State::Created,
        };
        Ok((Self::new(id, sandbox, config, about), state))
    }
}

/// A config without what only the process needs.
fn reduced(config: ContainerConfig) -> ContainerConfig {
    ContainerConfig { envs: Vec::new(), command: Vec::new(), args: Vec::new(), ..config }
}

/// The extension that says how a container ended, and the field mask's path of it.
#[must_use]
pub fn exit_extension(exit: &Exit) -> (HashMap<String, Any>, String) {
    let value = serde_json::to_vec(exit).unwrap_or_default();
    let any = Any { type_url: EXIT_TYPE.to_owned(), value };
    (HashMap::from([(EXIT.to_owned(), any)]), format!("extensions.{EXIT}"))
}

/// An OCI spec as containerd's records take it.
#[must_use]
pub fn spec_any(spec: &[u8]) -> Any {
    Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_vec() }
}
