//! The host side of a container's mounts: checks what a request asks for and resolves the host paths.
//!
//! All fields of all mounts are checked before any path is accessed, and therefore before any directory is created.
//! kubelet chooses the paths: no host path is refused because of where it leads. The OCI runtime decides what may be
//! mounted over /proc in the container; mounts over /sys are allowed.

mod image;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use self::image::{ImageMount, check_owners, images};
use super::host_paths::{self, Error as HostError, Progress, absolute, cleaned};
use crate::api::v1::{Mount, MountPropagation};
use crate::sys::mountinfo::{self, mount_id};

/// The values that `mount_options` may contain (KEP-5855).
const OPTIONS: [&str; 3] = ["nosuid", "noexec", "nodev"];

/// A path of at most 4,095 bytes can still contain a name that is longer than a file system allows.
const TOO_LONG: &str = "has a name that is too long";

/// What to do if a `host_path` does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingHostPath {
    /// Create a directory with mode 0755, and its parents, as containerd and CRI-O do.
    Create,
    /// Refuse the container, as api.proto specifies.
    Error,
}

/// A mount of a request whose source exists.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMount {
    /// Path on the host with all symlinks resolved. For an image it is empty until the caller has mounted the image
    /// and sets it.
    pub source: PathBuf,
    /// As requested, except that `container_path` is normalized, and relabelling and id mappings of an image are
    /// removed.
    pub mount: Mount,
}

/// Why a mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the mount, or its host path.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A field of an image mount is wrong. kubelet looks for the prefix of the message.
    #[error("ImageVolumeMountFailed: config.mounts[{index}].{name}: {problem}")]
    Image {
        /// The mount's index in the request.
        index: usize,
        name: &'static str,
        problem: String,
    },
}

/// Checks the mounts of a request and resolves their sources, in the order of the request. A directory that was
/// created stays, even if a later mount fails. Gives up after a minute.
///
/// # Errors
/// [`HostError::Invalid`] and [`Error::Image`] name the field; the other errors name the path.
pub async fn resolve(mounts: &[Mount], missing: MissingHostPath) -> Result<Vec<HostMount>, Error> {
    let wanted: Vec<Mount> =
        mounts.iter().enumerate().map(|(index, mount)| checked(index, mount)).collect::<Result<_, _>>()?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(host_paths::run(host_paths::DEADLINE, move |progress| find_all(progress, wanted, missing)).await?)
}

fn field(index: usize, name: &str) -> String {
    format!("config.mounts[{index}].{name}")
}

fn invalid(index: usize, name: &str, problem: impl Into<String>) -> HostError {
    HostError::Invalid { field: field(index, name), problem: problem.into() }
}

/// All checks that do not need the host.
fn checked(index: usize, mount: &Mount) -> Result<Mount, Error> {
    let container_path = cleaned(&mount.container_path).map_err(|problem| invalid(index, "container_path", problem))?;
    if let Some(image) = &mount.image {
        image::checked(index, mount, image)?;
    } else {
        absolute(&mount.host_path).map_err(|problem| invalid(index, "host_path", problem))?;
        if !mount.image_sub_path.is_empty() {
            return Err(invalid(index, "image_sub_path", "needs an image").into());
        }
    }
    check_mappings(mount).map_err(|(name, problem)| invalid(index, &name, problem))?;
    let propagation = MountPropagation::try_from(mount.propagation).map_err(|_| {
        invalid(index, "propagation", format!("{} is not a value of MountPropagation", mount.propagation))
    })?;
    if mount.recursive_read_only && !mount.readonly {
        return Err(invalid(index, "recursive_read_only", "requires readonly").into());
    }
    if mount.recursive_read_only && propagation != MountPropagation::PropagationPrivate {
        return Err(invalid(index, "recursive_read_only", "requires PROPAGATION_PRIVATE").into());
    }
    if let Some(other) = mount.mount_options.iter().find(|option| !OPTIONS.contains(&option.as_str())) {
        let problem = format!("{other:?} is none of {}", OPTIONS.join(", "));
        return Err(invalid(index, "mount_options", problem).into());
    }
    Ok(Mount {
        container_path: container_path.display().to_string(),
        // An image is mounted read-only and with its container's label, so nothing is relabelled.
        selinux_relabel: mount.selinux_relabel && mount.image.is_none(),
        // The image's layers are id-mapped, so its mount is not: the kernel cannot id-map an overlay mount.
        uid_mappings: if mount.image.is_none() { mount.uid_mappings.clone() } else { Vec::new() },
        gid_mappings: if mount.image.is_none() { mount.gid_mappings.clone() } else { Vec::new() },
        ..mount.clone()
    })
}

/// Returns the field that makes an id-mapped mount impossible, and why.
fn check_mappings(mount: &Mount) -> Result<(), (String, &'static str)> {
    let parts = [("uidMappings", &mount.uid_mappings), ("gidMappings", &mount.gid_mappings)];
    if let Some((name, _)) = parts.iter().find(|(_, mappings)| mappings.is_empty())
        && parts.iter().any(|(_, mappings)| !mappings.is_empty())
    {
        return Err(((*name).to_owned(), "is empty, but uidMappings and gidMappings must be set together"));
    }
    for (name, mappings) in parts {
        for (number, mapping) in mappings.iter().enumerate() {
            let ends = [mapping.host_id, mapping.container_id].map(|first| first.checked_add(mapping.length));
            if mapping.length == 0 || ends.contains(&None) {
                return Err((format!("{name}[{number}]"), "maps no id, or ids above 4294967294"));
            }
        }
    }
    Ok(())
}

fn find_all(progress: &Progress, wanted: Vec<Mount>, missing: MissingHostPath) -> Result<Vec<HostMount>, HostError> {
    let mut found = Vec::with_capacity(wanted.len());
    for (index, mount) in wanted.into_iter().enumerate() {
        let source = match mount.image {
            Some(_) => PathBuf::new(),
            None => source(progress, index, &mount, missing)?,
        };
        found.push(HostMount { source, mount });
    }
    if found.iter().any(|one| one.mount.propagation() != MountPropagation::PropagationPrivate) {
        let table = progress.step("read", Path::new("/proc/self/mountinfo"), |path| std::fs::read(path))?;
        let table: Vec<_> = mountinfo::mounts(&table).collect();
        for (index, one) in found.iter().enumerate() {
            check_propagation(progress, &table, index, one)?;
        }
    }
    Ok(found)
}

fn source(progress: &Progress, index: usize, mount: &Mount, missing: MissingHostPath) -> Result<PathBuf, HostError> {
    let path = Path::new(&mount.host_path);
    let named = |error: HostError| if error.is_too_long() { invalid(index, "host_path", TOO_LONG) } else { error };
    match progress.step("stat", path, |path| std::fs::metadata(path)) {
        Ok(_) => {}
        Err(error) if error.is_not_found() => match missing {
            MissingHostPath::Error => {
                return Err(invalid(index, "host_path", format!("{} does not exist", path.display())));
            }
            MissingHostPath::Create => progress
                .step("create directory", path, |path| {
                    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
                })
                .map_err(named)?,
        },
        Err(error) => return Err(named(error)),
    }
    // The OCI runtime would also follow symlinks, but later: resolving here ensures that the path checked is the path
    // mounted.
    progress.step("resolve", path, |path| std::fs::canonicalize(path))
}

/// Without this check the mount would succeed, and mounts below it would silently not appear on the other side.
fn check_propagation(
    progress: &Progress,
    table: &[mountinfo::Mount<'_>],
    index: usize,
    one: &HostMount,
) -> Result<(), HostError> {
    let wanted = one.mount.propagation();
    // Nothing is ever mounted below an image, so there is nothing to propagate.
    if wanted == MountPropagation::PropagationPrivate || one.mount.image.is_some() {
        return Ok(());
    }
    let refused = |problem: String| Err(invalid(index, "propagation", problem));
    let (name, path) = (wanted.as_str_name(), one.source.display());
    let id = progress.step("statx", &one.source, mount_id)?;
    let Some(mount) = mountinfo::containing(table, &one.source, id) else {
        return refused(format!("{name}: {path} is on no mount of this mount namespace"));
    };
    let point = mount.point.display();
    match wanted {
        MountPropagation::PropagationBidirectional if !mount.is_shared => {
            refused(format!("{name}: {path} is on {point}, which is not a shared mount"))
        }
        MountPropagation::PropagationHostToContainer if !mount.is_shared && !mount.is_slave => {
            refused(format!("{name}: {path} is on {point}, which is neither a shared nor a slave mount"))
        }
        MountPropagation::PropagationBidirectional
        | MountPropagation::PropagationHostToContainer
        | MountPropagation::PropagationPrivate => Ok(()),
    }
}

#[cfg(test)]
mod tests;
