//! The sandbox Store service: containerd's durable record of a pod sandbox.
//!
//! The Controller service is not used: its `podsandbox` controller needs the CRI plugin that Pontoon replaces.

use std::collections::HashMap;

use containerd_client::services::v1::sandbox as pb;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::types;
use futures_util::stream::{self, StreamExt as _};
use tonic::Status;

use super::connect::Channel;
use super::error::{removal, retry_once};
use super::paged_list::{Listed, PagedList, Records, Sent};
use super::{Any, Containerd, Result, nanoseconds};

/// A SandboxStore record.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub id: String,
    /// Runtime type of the sandbox's handler.
    pub runtime: String,
    pub runtime_options: Option<Any>,
    /// Labels that we set.
    pub labels: HashMap<String, String>,
    /// Values that we store, by name.
    pub extensions: HashMap<String, Any>,
    /// Nanoseconds since the epoch, set by containerd from its own clock.
    pub created_at: i64,
}

impl Containerd {
    fn sandboxes(&self) -> StoreClient<Channel> {
        StoreClient::new(self.unary.channel()).max_decoding_message_size(super::MESSAGE_LIMIT)
    }

    /// Creates a record.
    ///
    /// # Errors
    /// [`super::Kind::AlreadyExists`] when a record with this id exists.
    pub async fn create_sandbox(&self, sandbox: Sandbox) -> Result<()> {
        let id = sandbox.id.clone();
        let request = pb::StoreCreateRequest { sandbox: Some(encode(sandbox)) };
        let reply = self.sandboxes().create(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("create sandbox record", &id, &status))
    }

    /// Replaces parts of a record: `fields` names them (`extensions.KEY`); the rest does not change.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown id.
    pub async fn update_sandbox(&self, sandbox: Sandbox, fields: &[&str]) -> Result<()> {
        let id = sandbox.id.clone();
        let fields = fields.iter().map(ToString::to_string).collect();
        let request = pb::StoreUpdateRequest { sandbox: Some(encode(sandbox)), fields };
        retry_once(|| async {
            let reply = self.sandboxes().update(self.request(request.clone())).await;
            reply.map(drop).map_err(|status| self.error("update sandbox record", &id, &status))
        })
        .await
    }

    /// Lists all records of the namespace.
    #[must_use]
    pub fn list_sandboxes(&self) -> PagedList<'_, Sandbox> {
        PagedList::new(self)
    }

    /// Deletes a record. Succeeds if it does not exist.
    ///
    /// # Errors
    /// Any error of the store.
    pub async fn delete_sandbox(&self, id: &str) -> Result<()> {
        removal(|| async {
            let request = pb::StoreDeleteRequest { sandbox_id: id.to_owned() };
            let reply = self.sandboxes().delete(self.request(request)).await;
            reply.map(drop).map_err(|status| self.error("delete sandbox record", id, &status))
        })
        .await
    }
}

impl Listed for Sandbox {
    const OPERATION: &'static str = "list sandbox records";
    const IS_STREAMED: bool = false;

    fn id(&self) -> &str {
        &self.id
    }

    async fn list(containerd: &Containerd, filter: String) -> Result<Records<Self>, Status> {
        let request = pb::StoreListRequest { filters: vec![filter] };
        let reply = containerd.sandboxes().list(containerd.request(request)).await?;
        let sent = reply.into_inner().list.into_iter().map(|record| Ok(Sent { record: decode(record), size: 0 }));
        Ok(stream::iter(sent).boxed())
    }
}

fn encode(sandbox: Sandbox) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: sandbox.id,
        runtime: Some(types::sandbox::Runtime {
            name: sandbox.runtime,
            options: sandbox.runtime_options.map(Into::into),
        }),
        labels: sandbox.labels,
        extensions: sandbox.extensions.into_iter().map(|(key, any)| (key, any.into())).collect(),
        ..types::Sandbox::default()
    }
}

fn decode(sandbox: types::Sandbox) -> Sandbox {
    let runtime = sandbox.runtime.unwrap_or_default();
    Sandbox {
        id: sandbox.sandbox_id,
        runtime: runtime.name,
        runtime_options: runtime.options.map(Any::from),
        labels: sandbox.labels,
        extensions: sandbox.extensions.into_iter().map(|(key, any)| (key, any.into())).collect(),
        created_at: nanoseconds(sandbox.created_at),
    }
}
