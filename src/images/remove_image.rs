//! RemoveImage: deletes all names of an image.

use std::sync::Arc;

use super::{Error, Image, Images};
use crate::api::v1::{RemoveImageRequest, RemoveImageResponse};
use crate::joined;
use crate::log_keys::{LogKeys, add_keys};
use crate::telemetry::Verb;

impl Images {
    /// Removes an image with all its names, whichever of them the request contains. Succeeds if the image is not on
    /// this node. When this returns, no list shows the image.
    ///
    /// # Errors
    /// [`Error::ContainerdUnavailable`] when containerd does not respond, or [`Error::Containerd`] when a name could not
    /// be deleted.
    pub async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let wanted = request.image.map(|spec| spec.image).unwrap_or_default();
        add_keys(&LogKeys::of_image(&wanted));
        let image = match self.lookup(&wanted) {
            Ok(image) => image,
            Err(Error::NotFound(_)) => return Ok(RemoveImageResponse {}),
            Err(error) => return Err(error),
        };
        self.wait_for_containerd(Verb::RemoveImage).await?;
        let images = self.clone();
        // Detached: a removal must not stop half-way because the client left.
        let tasks = &self.inner.tasks;
        let work = tasks.run_named(Verb::RemoveImage, wanted, async move { images.remove(&image).await });
        joined::result(tasks.operation(work)).await?;
        Ok(RemoveImageResponse {})
    }

    async fn remove(&self, image: &Arc<Image>) -> Result<(), Error> {
        let last = image.names.len().saturating_sub(1);
        for (at, name) in image.names.iter().enumerate() {
            let ticket = self.inner.index.ticket();
            // Only the last deletion waits for the garbage collection: kubelet wants the disk space.
            match self.inner.containerd.delete_image(name, at == last).await {
                Ok(()) => self.inner.index.apply(ticket, name, None),
                Err(error) => {
                    self.inner.index.abandon(ticket);
                    return Err(error.into());
                }
            }
        }
        // The index may have one of these names again, if an event or another client brought it back meanwhile: read
        // all records. An image with a further name, added meanwhile, stays.
        match self.inner.index.resolve(&image.id) {
            Ok(again) if again.names.iter().all(|name| image.names.contains(name)) => self.refresh().await,
            _ => Ok(()),
        }
    }
}
