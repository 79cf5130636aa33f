//! The Content service: blobs by digest. Reads use the bulk channel.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::content_client::ContentClient;

use super::connect::Channel;
use super::{Containerd, Error, Kind, Result};

impl Containerd {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.bulk.clone()).max_decoding_message_size(super::MESSAGE_LIMIT)
    }

    /// Reads a whole blob of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist, [`Kind::Exhausted`] when it is larger: a manifest of a gigabyte must
    /// not take a gigabyte of memory (CVE-2023-25153).
    pub async fn read_blob(&self, digest: &str, limit: usize) -> Result<Vec<u8>> {
        let error = |status| self.error("read content", digest, &status);
        let request = pb::ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut stream = self.content().read(self.request(request)).await.map_err(error)?.into_inner();
        let mut blob = Vec::new();
        while let Some(part) = stream.message().await.map_err(error)? {
            if blob.len() + part.data.len() > limit {
                let message = format!("larger than {limit} bytes");
                return Err(Error::new("read content", digest, Kind::Exhausted, message));
            }
            blob.extend_from_slice(&part.data);
        }
        Ok(blob)
    }

    /// Whether a blob exists in containerd.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while containerd does not respond.
    pub async fn has_blob(&self, digest: &str) -> Result<bool> {
        let request = pb::InfoRequest { digest: digest.to_owned() };
        match ContentClient::new(self.unary.channel()).info(self.request(request)).await {
            Ok(_) => Ok(true),
            Err(status) => match self.error("look for content", digest, &status) {
                error if error.is_not_found() => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Sets one label of a blob; containerd's garbage collector follows labels to what the blob needs.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the blob does not exist.
    pub async fn label_blob(&self, digest: &str, key: &str, value: &str) -> Result<()> {
        let info = pb::Info {
            digest: digest.to_owned(),
            labels: HashMap::from([(key.to_owned(), value.to_owned())]),
            ..pb::Info::default()
        };
        let mask = prost_types::FieldMask { paths: vec![format!("labels.{key}")] };
        let request = pb::UpdateRequest { info: Some(info), update_mask: Some(mask) };
        let reply = ContentClient::new(self.unary.channel()).update(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("label content", digest, &status))
    }
}
