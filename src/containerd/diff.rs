//! The Diff service: unpacks a layer's archive into a snapshot.

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::diff_client::DiffClient;

use super::{Containerd, Descriptor, Mount, Result};

impl Containerd {
    /// Unpacks a layer into the mounts of a snapshot. Returns the digest of the uncompressed archive, which must be the
    /// layer's diff id.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the blob does not exist.
    pub async fn apply_diff(&self, layer: Descriptor, mounts: Vec<Mount>) -> Result<String> {
        let digest = layer.digest.clone();
        let request = pb::ApplyRequest {
            diff: Some(layer.into()),
            mounts: mounts.into_iter().map(Into::into).collect(),
            ..pb::ApplyRequest::default()
        };
        let reply = DiffClient::new(self.bulk.clone()).apply(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("apply layer", &digest, &status))?;
        Ok(reply.into_inner().applied.unwrap_or_default().digest)
    }
}
