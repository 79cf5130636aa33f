//! What an image has at the path of one of its VOLUMEs goes into the fresh volume, as Docker
//! and containerd do it.

use std::io;
use std::path::{Path, PathBuf};

use super::copy::copy_directory;
use super::root::root_error;
use super::{Error, Image, Images};
use crate::sys::mounts::MountedRoot;

impl Images {
    /// Copies the content of `container_path` in the image into the directory `to`, with owner,
    /// mode, extended attributes and times. A path that the image does not have copies nothing.
    /// It is resolved within the image (CVE-2022-23648), and no symlink below it is followed.
    ///
    /// # Errors
    /// [`Error::Root`] when it is there and is no directory, or the copying fails.
    pub async fn copy_volume(
        &self,
        image: &Image,
        snapshotter: &str,
        container_path: &str,
        to: &Path,
    ) -> Result<(), Error> {
        if image.chain_id.is_empty() {
            return Ok(());
        }
        let (from, to, id) = (PathBuf::from(container_path), to.to_owned(), image.id.clone());
        self.look_into(image, snapshotter, move |root| copy(root, &from, &to, &id)).await
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
