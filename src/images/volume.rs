//! Mounts an image as a volume (KEP-4639): a view of its layers, mounted read-only on a directory that we create.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::root_fs::{mount_spec, root_error};
use super::{Error, Image, Images};
use crate::containerd::id_labels;
use crate::joined::run_blocking;
use crate::sys::mounts::{self, AttachError};
use crate::userns::Mapping;

/// Where and how an image is mounted.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The snapshotter of the view.
    pub snapshotter: String,
    /// The view's key. The caller has a record in containerd that refers to it, so there is no lease.
    pub key: String,
    /// A clean relative path in the image; empty for the whole image.
    pub sub_path: PathBuf,
    /// The directory that it is mounted on. It is created with mode 0700 if it does not exist: set-user-id files of an
    /// image must not be available to users of the node (CVE-2021-41103).
    pub target: PathBuf,
    /// The user namespace to whose ids the owners of the image's files are mapped, as for a container's root.
    pub mapping: Option<Mapping>,
    /// The SELinux label of all its files.
    pub label: Option<String>,
}

impl Images {
    /// Mounts an image. After a failure, the caller has to remove the view and the directory.
    ///
    /// # Errors
    /// [`Error::SubPath`] for the directory in the image; [`Error::Root`] for the mount; [`Error::Containerd`] for the
    /// view.
    pub async fn mount_volume(&self, image: &Image, volume: Volume) -> Result<(), Error> {
        self.ensure_unpacked(image, &volume.snapshotter).await?;
        let containerd = &self.inner.containerd;
        let ids = volume.mapping.map(id_labels).unwrap_or_default();
        let mounts = containerd.view_snapshot(&volume.snapshotter, &volume.key, &image.chain_id, ids).await?;
        let (mut spec, id) = (mount_spec(&image.id, mounts)?, image.id.clone());
        // Quoted because of its commas.
        spec.options.extend(volume.label.map(|label| format!("context=\"{label}\"")));
        let work = move || {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&volume.target);
            made.map_err(|error| root_error("make the mount point of", Path::new("/"), &id, error))?;
            mounts::attach(spec, &volume.sub_path, &volume.target).map_err(|error| match error {
                AttachError::SubPath(error) => Error::SubPath { image: id, problem: problem(&error) },
                AttachError::Mount(error) => root_error("mount", &volume.sub_path, &id, error),
            })
        };
        run_blocking(work).await
    }
}

/// Unmounts and removes a directory that an image was mounted on.
///
/// # Errors
/// The error of the kernel.
pub fn remove_mount_point(target: &Path) -> io::Result<()> {
    mounts::detach(target)?;
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::NotADirectory => "is not a directory".to_owned(),
        io::ErrorKind::CrossesDevices => "leads out of the image".to_owned(),
        _ => error.to_string(),
    }
}
