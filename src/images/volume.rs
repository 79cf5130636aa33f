//! An image as a volume (KEP-4639): a view of its layers, mounted read-only on a directory of ours.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::root::{mount_spec, root_error};
use super::{Error, Image, Images};
use crate::containerd::id_labels;
use crate::sys::mounts::{self, AttachError};
use crate::userns::Mapping;

/// Where an image goes.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The snapshotter of the view.
    pub snapshotter: String,
    /// The view's key. Whoever calls has a record that refers to it: there is no lease.
    pub key: String,
    /// A clean relative path in the image; empty for all of it.
    pub sub_path: PathBuf,
    /// The directory it is mounted on, made with mode 0700 where it is not there: set-user-id
    /// files of an image are not for the node's users (CVE-2021-41103).
    pub target: PathBuf,
    /// The user namespace whose ids the image's owners are, as with a container's root.
    pub mapping: Option<Mapping>,
    /// The SELinux label of all its files.
    pub label: Option<String>,
}

impl Images {
    /// Mounts an image. What a failure leaves is the caller's to take away: the view, the directory.
    ///
    /// # Errors
    /// [`Error::SubPath`]; [`Error::Root`] for the mount; containerd's for the view.
    pub async fn mount_volume(&self, image: &Image, volume: Volume) -> Result<(), Error> {
        self.ensure_unpacked(image, &volume.snapshotter).await?;
        let containerd = &self.inner.containerd;
        let ids = volume.mapping.map(id_labels).unwrap_or_default();
        let mounts = containerd.view_snapshot(&volume.snapshotter, &volume.key, &image.chain_id, ids).await?;
        let (mut spec, id) = (mount_spec(&image.id, mounts)?, image.id.clone());
        // Quoted for its commas.
        spec.options.extend(volume.label.map(|label| format!("context=\"{label}\"")));
        let work = tokio::task::spawn_blocking(move || {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&volume.target);
            made.map_err(|error| root_error("make the mount point of", Path::new("/"), &id, error))?;
            mounts::attach(spec, &volume.sub_path, &volume.target).map_err(|error| match error {
                AttachError::SubPath(error) => Error::SubPath { image: id, problem: problem(&error) },
                AttachError::Mount(error) => root_error("mount", &volume.sub_path, &id, error),
            })
        });
        work.await.map_err(|error| root_error("mount", Path::new("/"), &image.id, error))?
    }
}

/// Unmounts and removes a directory that an image was mounted on.
///
/// # Errors
/// The kernel's.
pub fn remove_mount_point(target: &Path) -> io::Result<()> {
    mounts::detach(target)?;
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::NotADirectory => "is no directory".to_owned(),
        io::ErrorKind::CrossesDevices => "leads out of the image".to_owned(),
        _ => error.to_string(),
    }
}
