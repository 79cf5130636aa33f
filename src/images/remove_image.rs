//! RemoveImage.

use std::sync::Arc;

use super::{Error, Image, Images};
use crate::api::v1::{RemoveImageRequest, RemoveImageResponse};
use crate::telemetry::Verb;

impl Images {
    /// Removes an image with all its names, whichever of them was given; one that is not here is
    /// removed already. When it returns, no list shows the image.
    ///
    /// # Errors
    /// [`Error::Away`], or [`Error::Containerd`] when a name could not be deleted.
    pub async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let wanted = request.image.map(|spec| spec.image).unwrap_or_default();
        let image = match self.lookup(&wanted) {
            Ok(image) => image,
            Err(Error::NotFound(_)) => return Ok(RemoveImageResponse {}),
            Err(error) => return Err(error),
        };
        self.containerd_is_there().await?;
        let images = self.clone();
        // Detached: half an image must not stay because a client left.
        let tasks = &self.inner.tasks;
        let work = tasks.named(Verb::RemoveImage, wanted, async move { images.remove(&image).await });
        let work = tasks.operation(work);
        work.await.unwrap_or_else(|error| Err(Error::Away(error.to_string())))?;
        Ok(RemoveImageResponse {})
    }

    async fn remove(&self, image: &Arc<Image>) -> Result<(), Error> {
        let last = image.names.len().saturating_sub(1);
        for (at, name) in image.names.iter().enumerate() {
            let ticket = self.inner.index.ticket();
            // The last one waits for the garbage collection: the disk is what kubelet is after.
            match self.inner.containerd.delete_image(name, at == last).await {
                Ok(()) => self.inner.index.apply(ticket, name, None),
                Err(error) => {
                    self.inner.index.abandon(ticket);
                    return Err(error.into());
                }
            }
        }
        // A name that came while we removed the others.
        match self.inner.index.resolve(&image.id) {
            Ok(again) if again.names.iter().all(|name| image.names.contains(name)) => self.refresh().await,
            _ => Ok(()),
        }
    }
}
