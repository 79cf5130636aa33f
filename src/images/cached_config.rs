//! Access to an image's config when a container is created from it.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use super::config::parse;
use super::document::{self, NotRead};
use super::{Error, Image, Images};

impl Image {
    /// Whether its config takes too much memory to be cached.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.cached_config.config.is_none()
    }
}

impl Images {
    /// The config of an image, without its history and its diff ids. Its labels are the author's text: they never
    /// become labels of a containerd object.
    ///
    /// # Errors
    /// [`Error::Containerd`] when a large config, which is not cached, cannot be read again; [`Error::Invalid`] when it
    /// is malformed.
    pub async fn config(&self, image: &Image) -> Result<Arc<ImageConfiguration>, Error> {
        if let Some(config) = &image.cached_config.config {
            return Ok(Arc::clone(config));
        }
        let digest = &image.config_blob.digest;
        document::read(&self.inner.containerd, digest, parse).await.map(Arc::new).map_err(|why| match why {
            NotRead::Containerd(error) => error.into(),
            NotRead::Malformed(reason) => Error::Invalid { field: "config.image.image", reason },
        })
    }
}
