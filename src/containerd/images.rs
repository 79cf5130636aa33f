//! The Images service: names for content. A record protects its target from containerd's garbage collector.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::types;

use super::connect::Channel;
use super::error::not_found_is_ok;
use super::{Containerd, Result};

/// What a name or a manifest points to. Annotations are left out: the image's author writes them, and containerd acts
/// on some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    /// `algorithm:hex`.
    pub digest: String,
    /// Size in bytes; may be wrong or negative in a hostile image.
    pub size: i64,
}

/// A name in containerd's image store.
#[derive(Clone, Debug, Default)]
pub struct ImageRecord {
    /// A tag, a repository digest, or a config digest.
    pub name: String,
    /// Labels that we or other tools set; never those of the image's config.
    pub labels: HashMap<String, String>,
    /// The manifest or index.
    pub target: Descriptor,
}

impl Containerd {
    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.unary.channel()).max_decoding_message_size(super::MESSAGE_LIMIT)
    }

    /// Reads one image record.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown name.
    pub async fn get_image(&self, name: &str) -> Result<ImageRecord> {
        let request = pb::GetImageRequest { name: name.to_owned() };
        let reply = self.images().get(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("get image", name, &status))?;
        Ok(decode(reply.into_inner().image.unwrap_or_default()))
    }

    /// Lists all image records of the namespace.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] while containerd does not respond.
    pub async fn list_images(&self) -> Result<Vec<ImageRecord>> {
        let reply = self.images().list(self.request(pb::ListImagesRequest::default())).await;
        let reply = reply.map_err(|status| self.error("list images of", self.namespace(), &status))?;
        Ok(reply.into_inner().images.into_iter().map(decode).collect())
    }

    /// Creates an image record.
    ///
    /// # Errors
    /// [`super::Kind::AlreadyExists`] when a record with this name exists.
    pub async fn create_image(&self, record: ImageRecord) -> Result<()> {
        let name = record.name.clone();
        let request = pb::CreateImageRequest { image: Some(encode(record)), source_date_epoch: None };
        let reply = self.images().create(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("create image", &name, &status))
    }

    /// Replaces parts of a record: `fields` names them (`target`, `labels.KEY`); the rest does not change.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown name.
    pub async fn update_image(&self, record: ImageRecord, fields: &[&str]) -> Result<()> {
        let name = record.name.clone();
        let mask = prost_types::FieldMask { paths: fields.iter().map(ToString::to_string).collect() };
        let request =
            pb::UpdateImageRequest { image: Some(encode(record)), update_mask: Some(mask), source_date_epoch: None };
        let reply = self.images().update(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("update image", &name, &status))
    }

    /// Deletes a name. Succeeds if it does not exist. With `synchronous`, waits for the garbage collection that frees
    /// what only this name held.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] while containerd does not respond.
    pub async fn delete_image(&self, name: &str, synchronous: bool) -> Result<()> {
        let request = pb::DeleteImageRequest { name: name.to_owned(), sync: synchronous, target: None };
        let reply = self.images().delete(self.request(request)).await;
        not_found_is_ok(reply.map(drop).map_err(|status| self.error("delete image", name, &status)))
    }
}

impl From<Descriptor> for types::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: HashMap::new(),
        }
    }
}

impl From<types::Descriptor> for Descriptor {
    fn from(descriptor: types::Descriptor) -> Self {
        Self { media_type: descriptor.media_type, digest: descriptor.digest, size: descriptor.size }
    }
}

fn encode(record: ImageRecord) -> pb::Image {
    pb::Image {
        name: record.name,
        labels: record.labels,
        target: Some(record.target.into()),
        created_at: None,
        updated_at: None,
    }
}

fn decode(image: pb::Image) -> ImageRecord {
    ImageRecord { name: image.name, labels: image.labels, target: image.target.unwrap_or_default().into() }
}
