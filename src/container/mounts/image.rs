//! Image mounts (KEP-4639): the checks that do not need the image.

use std::path::{Component, Path, PathBuf};

use super::Error;
use super::host_paths::MAX_PATH;
use crate::api::v1::{IdMapping, ImageSpec, Mount};
use crate::userns::{Mapping, Range};

/// A mount of a request whose source is an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMount {
    /// Its index among the request's mounts.
    pub index: usize,
    /// The image reference as requested.
    pub reference: String,
    /// Name of the runtime handler that the image was pulled for; empty for the default one.
    pub handler: String,
    /// A directory in the image, normalized and relative; empty for the whole image.
    pub sub_path: PathBuf,
}

/// The image mounts among the mounts of a request.
///
/// # Errors
/// [`Error::Image`] names the field.
pub fn images(mounts: &[Mount]) -> Result<Vec<ImageMount>, Error> {
    let mut found = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        if let Some(image) = &mount.image {
            found.push(checked(index, mount, image)?);
        }
    }
    Ok(found)
}

pub(super) fn checked(index: usize, mount: &Mount, image: &ImageSpec) -> Result<ImageMount, Error> {
    let refused = |name, problem: &str| Error::Image { index, name, problem: problem.to_owned() };
    if image.image.is_empty() {
        return Err(refused("image.image", "is required"));
    }
    if !mount.host_path.is_empty() {
        return Err(refused("host_path", "and image exclude each other"));
    }
    if !mount.readonly {
        return Err(refused("readonly", "an image is mounted read-only, so it has to be true"));
    }
    let sub_path = relative(&mount.image_sub_path).map_err(|problem| refused("image_sub_path", problem))?;
    let (reference, handler) = (image.image.clone(), image.runtime_handler.clone());
    Ok(ImageMount { index, reference, handler, sub_path })
}

/// Refuses id mappings of an image mount that differ from the pod's user namespace. The files of the image are always
/// mapped like those of the container's root file system, by the pod's user namespace, whether or not the mount has
/// mappings (kubelet sets them).
///
/// # Errors
/// [`Error::Image`] names the field.
pub fn check_owners(mounts: &[Mount], pod: Option<Mapping>) -> Result<(), Error> {
    let is = |mappings: &[IdMapping], range: Option<Range>| match (mappings, range) {
        ([], _) => true,
        ([one], Some(range)) => (one.container_id, one.host_id, one.length) == (0, range.host, range.length),
        _ => false,
    };
    for (index, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.image.is_some()) {
        let parts = [
            ("uidMappings", is(&mount.uid_mappings, pod.map(|pod| pod.uids))),
            ("gidMappings", is(&mount.gid_mappings, pod.map(|pod| pod.gids))),
        ];
        if let Some((name, _)) = parts.into_iter().find(|(_, same)| !same) {
            let problem =
                "is not the mapping of the sandbox's user namespace, as that of an image has to be".to_owned();
            return Err(Error::Image { index, name, problem });
        }
    }
    Ok(())
}

/// kubelet refuses absolute paths and `..`, but KEP-4639 ("subPath") requires runtimes to check again.
fn relative(path: &str) -> Result<PathBuf, &'static str> {
    if path.contains('\0') {
        return Err("has a NUL");
    }
    if path.len() > MAX_PATH {
        return Err("has more than 4095 bytes");
    }
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("has a .."),
            Component::RootDir | Component::Prefix(_) => return Err("is absolute"),
        }
    }
    Ok(clean)
}
