//! The Containers service: containerd's durable record of a container.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::containers_client::ContainersClient;
use futures_util::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::Status;

use super::connect::Channel;
use super::error::{removal, retry_once};
use super::paged_list::{Listed, PagedList, Records, Sent};
use super::{Any, Containerd, Result, nanoseconds};

/// A container record.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub id: String,
    /// Labels that we set; never a label of the pod or of the image, since containerd acts on labels.
    pub labels: HashMap<String, String>,
    /// Reference of the image. It does not protect the image from containerd's garbage collector; the snapshot does.
    pub image: String,
    /// Runtime type, such as `io.containerd.runc.v2`.
    pub runtime: String,
    pub runtime_options: Option<Any>,
    /// The OCI spec as JSON.
    pub spec: Option<Any>,
    /// Snapshotter of the root; empty for none.
    pub snapshotter: String,
    /// Key of the root's snapshot; empty for none.
    pub snapshot_key: String,
    /// Values that we store, by name.
    pub extensions: HashMap<String, Any>,
    /// Id of a SandboxStore record whose shim runs; that shim then runs this container too. Empty to start a new shim.
    pub sandbox: String,
    /// Nanoseconds since the epoch; set by containerd.
    pub created_at: i64,
}

impl Containerd {
    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.unary.channel()).max_decoding_message_size(super::MESSAGE_LIMIT)
    }

    /// Creates a container record.
    ///
    /// # Errors
    /// [`super::Kind::AlreadyExists`] when a record with this id exists.
    pub async fn create_container(&self, container: Container) -> Result<()> {
        let id = container.id.clone();
        let request = pb::CreateContainerRequest { container: Some(encode(container)) };
        let reply = self.containers().create(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("create container", &id, &status))
    }

    /// Replaces parts of a record: `fields` names them (`spec`, `extensions.KEY`); the rest does not change.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown id.
    pub async fn update_container(&self, container: Container, fields: &[&str]) -> Result<()> {
        let id = container.id.clone();
        let mask = prost_types::FieldMask { paths: fields.iter().map(ToString::to_string).collect() };
        let request = pb::UpdateContainerRequest { container: Some(encode(container)), update_mask: Some(mask) };
        retry_once(|| async {
            let reply = self.containers().update(self.request(request.clone())).await;
            reply.map(drop).map_err(|status| self.error("update container", &id, &status))
        })
        .await
    }

    /// Lists all container records of the namespace.
    #[must_use]
    pub fn list_containers(&self) -> PagedList<'_, Container> {
        PagedList::new(self)
    }

    /// Reads one container record.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown id.
    pub async fn get_container(&self, id: &str) -> Result<Container> {
        let request = pb::GetContainerRequest { id: id.to_owned() };
        let reply = self.containers().get(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("get container", id, &status))?;
        Ok(decode(reply.into_inner().container.unwrap_or_default()))
    }

    /// Deletes a record. Succeeds if it does not exist.
    ///
    /// # Errors
    /// [`super::Kind::FailedPrecondition`] while it has a task.
    pub async fn delete_container(&self, id: &str) -> Result<()> {
        removal(|| async {
            let request = pb::DeleteContainerRequest { id: id.to_owned() };
            let reply = self.containers().delete(self.request(request)).await;
            reply.map(drop).map_err(|status| self.error("delete container", id, &status))
        })
        .await
    }
}

impl Listed for Container {
    const OPERATION: &'static str = "list container records";
    const IS_STREAMED: bool = true;

    fn id(&self) -> &str {
        &self.id
    }

    async fn list(containerd: &Containerd, filter: String) -> Result<Records<Self>, Status> {
        let request = pb::ListContainersRequest { filters: vec![filter] };
        let messages = containerd.containers().list_stream(containerd.request(request)).await?.into_inner();
        let sent = messages.try_filter_map(async |message| {
            let sent = |container: pb::Container| Sent { size: container.encoded_len(), record: decode(container) };
            Ok(message.container.map(sent))
        });
        Ok(sent.boxed())
    }
}

fn encode(container: Container) -> pb::Container {
    pb::Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: Some(pb::container::Runtime {
            name: container.runtime,
            options: container.runtime_options.map(Into::into),
        }),
        spec: container.spec.map(Into::into),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: None,
        updated_at: None,
        extensions: container.extensions.into_iter().map(|(key, any)| (key, any.into())).collect(),
        sandbox: container.sandbox,
    }
}

fn decode(container: pb::Container) -> Container {
    let runtime = container.runtime.unwrap_or_default();
    Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: runtime.name,
        runtime_options: runtime.options.map(Any::from),
        spec: container.spec.map(Any::from),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        extensions: container.extensions.into_iter().map(|(key, any)| (key, any.into())).collect(),
        sandbox: container.sandbox,
        created_at: nanoseconds(container.created_at),
    }
}
