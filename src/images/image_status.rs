//! ImageStatus: served from memory, except for the verbose info.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::document::{self, NotRead};
use super::{Error, Image, Images};
use crate::api::v1::{ImageStatusRequest, ImageStatusResponse};

/// How long a status waits for containerd.
const PATIENCE: Duration = Duration::from_secs(2);

/// The keys are those of containerd's CRI plugin; tools read them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(rename = "chainID")]
    chain_id: String,
    image_spec: serde_json::Value,
}

impl Images {
    /// Returns one image; an empty response, not an error, if it is not on this node.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty reference or an ambiguous id.
    pub async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let wanted = request.image.map(|spec| spec.image).unwrap_or_default();
        let image = match self.lookup(&wanted) {
            // A lookup by name does not find an incomplete image, so that kubelet pulls it again; a lookup by id does,
            // so that it can be removed.
            Ok(image) if image.content_is_missing() && !image.has_id(&wanted) => {
                return Ok(ImageStatusResponse::default());
            }
            Ok(image) => image,
            Err(Error::NotFound(_)) => return Ok(ImageStatusResponse::default()),
            Err(error) => return Err(error),
        };
        let info = if request.verbose { self.info(&image).await } else { HashMap::new() };
        Ok(ImageStatusResponse { image: Some(image.to_cri()), info })
    }

    async fn info(&self, image: &Image) -> HashMap<String, String> {
        // The whole config, including the history, which is not cached.
        let chain_id = image.chain_id.clone();
        let keep =
            |image_spec| serde_json::to_string(&Info { chain_id, image_spec }).map_err(|error| error.to_string());
        let read = document::read(&self.inner.containerd, &image.config_blob.digest, keep);
        let text = match timeout(PATIENCE, read).await {
            Err(_) => format!("containerd has not answered for {PATIENCE:?}"),
            Ok(Ok(info)) => info,
            Ok(Err(NotRead::Containerd(error))) => error.to_string(),
            Ok(Err(NotRead::Malformed(reason))) => reason,
        };
        HashMap::from([("info".to_owned(), text)])
    }
}
