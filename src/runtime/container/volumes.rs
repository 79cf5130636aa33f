//! VOLUMEs of an image: each is a directory of the container, filled with the image's files at that path.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::container::{Container, Record};
use crate::images::Image;
use crate::joined::run_blocking;
use crate::runtime::{Error, Node, Result};
use crate::spec;
use crate::sys::remove_tree::remove_tree;

/// Paths of VOLUMEs, each with its directory on the host.
pub(crate) type Volumes = Vec<(String, PathBuf)>;

/// How many VOLUMEs an image may have: each is a directory and a mount of the container.
const MOST_VOLUMES: usize = 1000;

/// The image's VOLUMEs that no mount of the request covers.
///
/// # Errors
/// [`Error::Invalid`] if the image has too many VOLUMEs.
pub(crate) fn of_image(node: &Node, record: &Record, image: &spec::ImageConfig) -> Result<Volumes> {
    let count = image.volumes.len();
    if count > MOST_VOLUMES {
        let problem = format!("it has {count} VOLUMEs, more than {MOST_VOLUMES}");
        return Err(Error::Invalid { field: "config.image.image", problem });
    }
    let directory = node.container_directory(&record.id).join("volumes");
    let covered: HashSet<&str> = record.config.mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    let wanted = image.volumes.iter().filter(|path| !covered.contains(path.as_str())).enumerate();
    Ok(wanted.map(|(number, path)| (path.clone(), directory.join(number.to_string()))).collect())
}

/// Removes a container's directory with everything that its processes have left in it.
///
/// # Errors
/// [`Error::System`] with the directory and the error of the system call.
pub(crate) async fn remove_directory(path: PathBuf) -> Result<()> {
    let directory = path.clone();
    let removed = run_blocking(move || remove_tree(&path)).await;
    removed.map_err(|source| Error::system("remove", &directory, source))
}

impl Node {
    /// Copies the image's files at its VOLUMEs into the container's directories.
    pub(crate) async fn fill_volumes(&self, container: &Container, image: &Image, volumes: Volumes) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        let directories: Vec<PathBuf> = volumes.iter().map(|(_, directory)| directory.clone()).collect();
        // Created even if the image does not have the path: the directory is mounted there.
        let to_make = directories.clone();
        let make = move |directory: &PathBuf| {
            std::fs::create_dir_all(directory).map_err(|source| Error::system("make", directory, source))
        };
        run_blocking(move || to_make.iter().try_for_each(make)).await?;
        self.images.copy_volumes(image, &container.root.snapshotter, volumes).await?;
        self.label_volumes(directories, &container.spec().json).await
    }
}
