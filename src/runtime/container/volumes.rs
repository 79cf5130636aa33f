//! VOLUMEs of an image: each is a directory of the container's with what the image has there.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::container::{Container, Record};
use crate::images::Image;
use crate::runtime::threads::blocking;
use crate::runtime::{Error, Node, Result};
use crate::spec;
use crate::sys::remove_tree::remove_tree;

/// VOLUMEs, each with its directory.
pub(crate) type Volumes = Vec<(String, PathBuf)>;

/// How many VOLUMEs an image may have: each is a directory, and a mount of the container's.
const MOST_VOLUMES: usize = 1000;

/// The image's VOLUMEs that no mount of the request covers.
///
/// # Errors
/// [`Error::Invalid`] for an image with more of them than it may have.
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

/// Removes a container's directory, whatever its processes have left in it.
pub(crate) async fn remove_directory(path: PathBuf) -> std::io::Result<()> {
    blocking(move || remove_tree(&path)).await
}

impl Node {
    /// Copies what the image has at its VOLUMEs into the container's directories.
    pub(crate) async fn fill_volumes(&self, container: &Container, image: &Image, volumes: Volumes) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        let directories: Vec<PathBuf> = volumes.iter().map(|(_, directory)| directory.clone()).collect();
        // Also for a path that the image does not have: the directory is what is mounted there.
        let to_make = directories.clone();
        let make = move |directory: &PathBuf| {
            std::fs::create_dir_all(directory).map_err(|source| Error::system("make", directory, source))
        };
        blocking(move || to_make.iter().try_for_each(make)).await?;
        self.images.copy_volumes(image, &container.root.snapshotter, volumes).await?;
        self.label_volumes(directories, &container.spec().json).await
    }
}
