//! Copies what an image has at the paths of its VOLUMEs into the new volumes, as Docker and containerd do.

use std::io;
use std::path::{Path, PathBuf};

use super::copy::copy_directory;
use super::root_fs::root_error;
use super::{Error, Image, Images};
use crate::sys::mounts::MountedRoot;

impl Images {
    /// Copies the content of each path in the image into its directory, which must exist, with owner, mode, extended
    /// attributes and times. A path that the image does not have copies nothing. Paths are resolved within the image
    /// (CVE-2022-23648), and no symlink below them is followed. The image's root is mounted once for all of them.
    ///
    /// # Errors
    /// [`Error::Root`] when a path exists but is not a directory, or when copying fails.
    pub async fn copy_volumes(
        &self,
        image: &Image,
        snapshotter: &str,
        volumes: Vec<(String, PathBuf)>,
    ) -> Result<(), Error> {
        if image.chain_id.is_empty() {
            return Ok(());
        }
        let id = image.id.clone();
        let copy_all =
            move |root: &MountedRoot| volumes.iter().try_for_each(|(from, to)| copy(root, Path::new(from), to, &id));
        self.with_root(image, snapshotter, copy_all).await
    }
}

fn copy(root: &MountedRoot, from: &Path, to: &Path, image: &str) -> Result<(), Error> {
    let source = match root.open_directory(from) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(root_error("open volume", from, image, error)),
    };
    copy_directory(source, to).map_err(|error| root_error("copy volume", from, image, error))
}
