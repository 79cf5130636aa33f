//! The Diff service: a layer's archive onto a snapshot.

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::diff_client::DiffClient;

use super::{Containerd, Descriptor, Error, Mount, Result};

impl Containerd {
    /// Unpacks a layer onto the mounts of a snapshot and gives the digest of the archive
    /// without compression, which is to be the layer's diff id.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the blob is not there.
    pub async fn apply_diff(&self, layer: Descriptor, mounts: Vec<Mount>) -> Result<String> {
        let digest = layer.digest.clone();
        let request = pb::ApplyRequest {
            diff: Some(layer.into()),
            mounts: mounts.into_iter().map(Into::into).collect(),
            ..pb::ApplyRequest::default()
        };
        let reply = DiffClient::new(self.bulk.clone()).apply(self.request(request)).await;
        let reply = reply.map_err(|status| Error::status("apply layer", &digest, &status))?;
        Ok(reply.into_inner().applied.unwrap_or_default().digest)
    }
}
