//! ListImages: served from memory.

use super::reference::Reference;
use super::{Error, Images};
use crate::api::v1::{ListImagesRequest, ListImagesResponse};

impl Images {
    /// All images, or those of the repository that the filter names, or the one that its reference, digest or id names;
    /// each image once. Never waits for containerd.
    ///
    /// # Errors
    /// None today; a filter that names nothing on this node matches nothing.
    pub fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let index = &self.inner.index;
        let of_repository = Reference::repository(&wanted).map(|repository| index.of_repository(&repository));
        let images = match of_repository {
            _ if wanted.is_empty() => index.all(),
            Some(images) if !images.is_empty() => images,
            // A short id may look like a repository.
            Some(_) | None => index.resolve(&wanted).into_iter().collect(),
        };
        Ok(ListImagesResponse { images: images.iter().map(|image| image.to_cri()).collect() })
    }
}
