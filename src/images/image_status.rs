//! ImageStatus.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::{Error, Image, Images, manifest};
use crate::api::v1::{ImageStatusRequest, ImageStatusResponse};

/// What a status may wait for containerd.
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
    /// One image; none, and no error, when it is not here.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no reference or an ambiguous id.
    pub async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let wanted = request.image.map(|spec| spec.image).unwrap_or_default();
        let image = match self.lookup(&wanted) {
            Ok(image) => image,
            Err(Error::NotFound(_)) => return Ok(ImageStatusResponse::default()),
            Err(error) => return Err(error),
        };
        let info = if request.verbose { self.info(&image).await } else { HashMap::new() };
        Ok(ImageStatusResponse { image: Some(image.to_cri()), info })
    }

    async fn info(&self, image: &Image) -> HashMap<String, String> {
        // The whole config, with the history that is not kept in memory.
        let config = timeout(PATIENCE, manifest::read_json(&self.inner.containerd, &image.id)).await;
        let Ok(config) = config else {
            let said = format!("containerd has not answered for {PATIENCE:?}");
            return HashMap::from([("info".to_owned(), said)]);
        };
        let info = config.map(|image_spec| Info { chain_id: image.chain_id.clone(), image_spec });
        let text = match info.map(|info| serde_json::to_string(&info)) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        HashMap::from([("info".to_owned(), text)])
    }
}
