//! Access to an image's root file system: a view snapshot under a lease that expires, mounted privately. Both are
//! removed when the access is over.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::{Error, Image, Images, leases};
use crate::containerd::Mount;
use crate::joined;
use crate::sys::mounts::{MountSpec, MountedRoot};

/// If the daemon dies during the access, containerd's garbage collector removes the view after this.
const LEASE: Duration = Duration::from_secs(600);

impl Images {
    /// Runs `action` on the image's root, on a blocking thread.
    pub(super) async fn with_root<T: Send + 'static>(
        &self,
        image: &Image,
        snapshotter: &str,
        action: impl FnOnce(&MountedRoot) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.ensure_unpacked(image, snapshotter).await?;
        let images = self.clone();
        let (chain_id, id, snapshotter) = (image.chain_id.clone(), image.id.clone(), snapshotter.to_owned());
        // Detached: a caller that leaves must not leave the view behind.
        let work = async move { images.with_view(&id, &chain_id, &snapshotter, action).await };
        joined::result(self.inner.tasks.operation(work)).await
    }

    async fn with_view<T: Send + 'static>(
        &self,
        image: &str,
        chain_id: &str,
        snapshotter: &str,
        action: impl FnOnce(&MountedRoot) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let containerd = &self.inner.containerd;
        let name = leases::name("look");
        let leased = containerd.leased(&name, &in_future(LEASE)).await?;
        let result = match leased.view_snapshot(snapshotter, &name, chain_id, Default::default()).await {
            Ok(mounts) => with_mounts(image, mounts, action).await,
            Err(error) => Err(error.into()),
        };
        // Removes both, whatever the result; what cannot be removed now goes when the lease expires.
        if let Err(error) = containerd.remove_snapshot(snapshotter, &name).await {
            tracing::warn!(%error, "cannot remove a view; it stays until its lease expires");
        }
        if let Err(error) = containerd.delete_lease(&name, false).await {
            tracing::warn!(%error, "cannot delete a lease; it stays until it expires");
        }
        result
    }
}

async fn with_mounts<T: Send + 'static>(
    image: &str,
    mounts: Vec<Mount>,
    action: impl FnOnce(&MountedRoot) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let spec = mount_spec(image, mounts)?;
    let image = image.to_owned();
    let work = move || {
        let root = MountedRoot::mount(spec).map_err(|error| root_error("mount", Path::new("/"), &image, error))?;
        action(&root)
    };
    joined::run_blocking(work).await
}

/// Converts a snapshot's mounts to the arguments of a single mount(2).
pub(super) fn mount_spec(image: &str, mounts: Vec<Mount>) -> Result<MountSpec, Error> {
    match <[Mount; 1]>::try_from(mounts) {
        Ok([mount]) => Ok(MountSpec { fs_type: mount.fs_type, source: mount.source, options: mount.options }),
        Err(mounts) => Err(root_error("mount", Path::new("/"), image, format!("{} mounts for one root", mounts.len()))),
    }
}

/// The time `after` from now, in the format of containerd's labels.
pub(super) fn in_future(after: Duration) -> String {
    let now = Timestamp::now();
    let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
    let then = Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now);
    then.to_string()
}

pub(super) fn root_error(operation: &'static str, path: &Path, image: &str, error: impl ToString) -> Error {
    Error::Root { operation, path: path.display().to_string(), image: image.to_owned(), message: error.to_string() }
}
