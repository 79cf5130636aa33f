//! A sandbox's durable form: a SandboxStore record in containerd. It is written before everything else and deleted
//! last.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::encode_sandbox;
use crate::api::v1::{PodSandbox, PodSandboxConfig, PodSandboxMetadata};
use crate::containerd::{self, Any};
use crate::ids::SandboxId;
use crate::lsm::selinux::{Labels, Reservation};

/// Extension key of the CRI config. Written once and never rewritten: prost would drop fields of a newer API.
const CONFIG: &str = "pontoon.sandbox.config";
/// Extension key of what the CRI config does not contain.
const ABOUT: &str = "pontoon.sandbox.about";
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";
const ABOUT_TYPE: &str = "pontoon.v1.SandboxAbout";

/// The facts about a sandbox that never change.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: SandboxId,
    /// The request's config.
    pub config: PodSandboxConfig,
    /// The resolved name of the runtime handler.
    pub handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its SELinux labels, if it has any.
    pub selinux: Option<Selinux>,
}

#[derive(Debug, Clone)]
pub struct Selinux {
    /// Part of the record, so that no other pod gets their level after a restart.
    pub labels: Labels,
    /// Reserves their level as long as the pod exists. Not part of the record.
    pub level: Option<Arc<Reservation>>,
}

/// Why a SandboxStore record was not written by Pontoon, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another program's record.
    #[error("the record has no extension {ABOUT}")]
    Foreign,
    /// Pontoon's record, but damaged.
    #[error("the record's extension {0} cannot be read")]
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Resolved {
    handler: String,
    created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selinux: Option<Labels>,
}

impl Record {
    /// What is known from a damaged record: enough to list and remove the sandbox. `None` if its id is not one of
    /// ours.
    #[must_use]
    pub fn from_damaged(sandbox: &containerd::Sandbox) -> Option<Self> {
        let id = SandboxId::parse(&sandbox.id).ok()?;
        // A unique name, so that no two damaged records share one.
        let metadata = PodSandboxMetadata { name: format!("damaged-{id}"), ..PodSandboxMetadata::default() };
        let config = PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() };
        // CRI requires a time greater than 0, and the one in the extension cannot be read.
        let created_at = sandbox.created_at;
        Some(Self { id, config, handler: String::new(), created_at, selinux: None })
    }

    /// A substitute for a record that containerd cannot send because of its size, and of which only the id is known.
    /// It is read as a damaged record.
    #[must_use]
    pub fn placeholder_for_too_large(id: String) -> containerd::Sandbox {
        let nothing = Any { type_url: ABOUT_TYPE.to_owned(), value: Vec::new() };
        let extensions = HashMap::from([(ABOUT.to_owned(), nothing)]);
        containerd::Sandbox { id, extensions, ..containerd::Sandbox::default() }
    }

    /// The encoded ListPodSandbox item of it, without the state.
    pub(super) fn listed(&self) -> Bytes {
        encode_sandbox(&PodSandbox {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
            ..PodSandbox::default()
        })
    }

    /// The record as containerd stores it. Its `labels` are Pontoon's own. The pod's labels and annotations stay
    /// inside the config, because containerd acts on labels of its objects.
    #[must_use]
    pub fn encode(&self, runtime: String, options: Any) -> containerd::Sandbox {
        let resolved = Resolved {
            handler: self.handler.clone(),
            created_at: self.created_at,
            selinux: self.selinux.as_ref().map(|selinux| selinux.labels.clone()),
        };
        // Serializing a struct of strings and a number cannot fail.
        let resolved = serde_json::to_vec(&resolved).unwrap_or_default();
        containerd::Sandbox {
            id: self.id.to_string(),
            runtime,
            runtime_options: Some(options),
            labels: HashMap::from([("io.cri-containerd.kind".to_owned(), "sandbox".to_owned())]),
            extensions: HashMap::from([
                (CONFIG.to_owned(), Any { type_url: CONFIG_TYPE.to_owned(), value: self.config.encode_to_vec() }),
                (ABOUT.to_owned(), Any { type_url: ABOUT_TYPE.to_owned(), value: resolved }),
            ]),
            created_at: 0,
        }
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] for another program's record, [`RecordError::Damaged`] for one of ours that cannot be
    /// read.
    pub fn decode(sandbox: &containerd::Sandbox) -> Result<Self, RecordError> {
        let resolved = sandbox.extensions.get(ABOUT).ok_or(RecordError::Foreign)?;
        let id = SandboxId::parse(&sandbox.id).map_err(|_| RecordError::Foreign)?;
        let resolved: Resolved = serde_json::from_slice(&resolved.value).map_err(|_| RecordError::Damaged(ABOUT))?;
        let config = sandbox.extensions.get(CONFIG).ok_or(RecordError::Damaged(CONFIG))?;
        let config = PodSandboxConfig::decode(config.value.as_slice()).map_err(|_| RecordError::Damaged(CONFIG))?;
        let selinux = resolved.selinux.map(|labels| Selinux { labels, level: None });
        Ok(Self { id, config, handler: resolved.handler, created_at: resolved.created_at, selinux })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(selinux: Option<Selinux>) -> Record {
        let (id, config) = (SandboxId::random(), PodSandboxConfig::default());
        Record { id, config, handler: "runc".to_owned(), created_at: 7, selinux }
    }

    fn stored(record: &Record) -> containerd::Sandbox {
        record.encode("runtime".to_owned(), Any { type_url: String::new(), value: Vec::new() })
    }

    #[test]
    fn labels_come_back_from_containerd() {
        let label = |text: &str| text.parse().unwrap();
        let labels = Labels { process: label("u:r:t:s0:c1,c2"), mount: label("u:object_r:f:s0:c1,c2") };
        let record = record(Some(Selinux { labels: labels.clone(), level: None }));
        assert_eq!(Record::decode(&stored(&record)).unwrap().selinux.unwrap().labels, labels);
    }

    #[test]
    fn one_that_is_too_large_is_listed_by_its_id() {
        let id = SandboxId::random();
        let record = Record::placeholder_for_too_large(id.to_string());
        assert!(matches!(Record::decode(&record), Err(RecordError::Damaged(_))));
        assert_eq!(Record::from_damaged(&record).unwrap().id, id);
    }

    #[test]
    fn a_record_without_labels_is_read_as_ever() {
        let stored = stored(&record(None));
        assert_eq!(stored.extensions[ABOUT].value, br#"{"handler":"runc","created_at":7}"#);
        assert!(Record::decode(&stored).unwrap().selinux.is_none());
    }
}
