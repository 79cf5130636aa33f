//! A sandbox's durable form: a SandboxStore record, written first and deleted last.

use std::collections::HashMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::api::v1::{PodSandboxConfig, PodSandboxMetadata};
use crate::containerd::{self, Any};
use crate::ids::SandboxId;

/// Key of the CRI config. Its bytes are written once: prost would drop fields of a newer API.
const CONFIG: &str = "pontoon.sandbox.config";
/// Key of what CRI's config does not say.
const ABOUT: &str = "pontoon.sandbox.about";
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";
const ABOUT_TYPE: &str = "pontoon.v1.SandboxAbout";

/// What is known of a sandbox for its whole life.
#[derive(Debug, Clone)]
pub struct Record {
    /// The id.
    pub id: SandboxId,
    /// The request's config.
    pub config: PodSandboxConfig,
    /// The runtime handler's name as it was resolved.
    pub handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

/// Why a SandboxStore record is not one of ours, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Somebody else's.
    #[error("it has no extension {ABOUT}")]
    Foreign,
    /// Ours, but damaged.
    #[error("its extension {0} cannot be read")]
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
struct About {
    handler: String,
    created_at: i64,
}

impl Record {
    /// What can be said of a damaged record: enough to list and remove it.
    #[must_use]
    pub fn nameless(sandbox: &containerd::Sandbox) -> Option<Self> {
        let id = SandboxId::parse(&sandbox.id).ok()?;
        // A name of its own, so that two damaged records do not share one.
        let metadata = PodSandboxMetadata { name: format!("damaged-{id}"), ..PodSandboxMetadata::default() };
        let config = PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() };
        Some(Self { id, config, handler: String::new(), created_at: 0 })
    }

    /// As containerd stores it. `labels` are of our own making; the pod's labels and annotations
    /// stay inside the config, since containerd acts on labels of its objects.
    #[must_use]
    pub fn encode(&self, runtime: String, options: Any) -> containerd::Sandbox {
        let about = About { handler: self.handler.clone(), created_at: self.created_at };
        // A struct of a string and a number always serializes.
        let about = serde_json::to_vec(&about).unwrap_or_default();
        containerd::Sandbox {
            id: self.id.to_string(),
            runtime,
            runtime_options: Some(options),
            labels: HashMap::from([("io.cri-containerd.kind".to_owned(), "sandbox".to_owned())]),
            extensions: HashMap::from([
                (CONFIG.to_owned(), Any { type_url: CONFIG_TYPE.to_owned(), value: self.config.encode_to_vec() }),
                (ABOUT.to_owned(), Any { type_url: ABOUT_TYPE.to_owned(), value: about }),
            ]),
        }
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] for somebody else's, [`RecordError::Damaged`] for ours that cannot be read.
    pub fn decode(sandbox: &containerd::Sandbox) -> Result<Self, RecordError> {
        let about = sandbox.extensions.get(ABOUT).ok_or(RecordError::Foreign)?;
        let id = SandboxId::parse(&sandbox.id).map_err(|_| RecordError::Foreign)?;
        let about: About = serde_json::from_slice(&about.value).map_err(|_| RecordError::Damaged(ABOUT))?;
        let config = sandbox.extensions.get(CONFIG).ok_or(RecordError::Damaged(CONFIG))?;
        let config = PodSandboxConfig::decode(config.value.as_slice()).map_err(|_| RecordError::Damaged(CONFIG))?;
        Ok(Self { id, config, handler: about.handler, created_at: about.created_at })
    }
}
