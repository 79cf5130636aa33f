//! ListImages.

use super::{Error, Images};
use crate::api::v1::{ListImagesRequest, ListImagesResponse};

impl Images {
    /// All images once each, or the one that the filter's reference, digest or id means.
    /// From memory: it never waits for containerd.
    ///
    /// # Errors
    /// None today; a filter that means nothing here matches nothing.
    pub async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let images = if wanted.is_empty() {
            self.inner.index.all()
        } else {
            self.inner.index.resolve(&wanted).into_iter().collect()
        };
        Ok(ListImagesResponse { images: images.iter().map(|image| image.to_cri()).collect() })
    }
}
