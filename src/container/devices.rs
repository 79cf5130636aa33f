//! The device nodes of a container: those of the request, and for a privileged container all of the host.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::host_paths::{self, Error, Progress, absolute, cleaned};
use crate::api::v1::{Device, Int64Value, LinuxContainerSecurityContext};

/// Directories that are not searched for devices. The container gets its own pts, shm, fd and mqueue. The others
/// exist if the node is itself a container (lxc/lxd#2825, opencontainers/runc#2093).
const SKIPPED_DIRECTORIES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// The accesses to a device that a cgroup can allow: read, write, mknod.
const ACCESSES: &str = "rwm";

/// A device node to be created in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the container.
    pub path: PathBuf,
    /// As in the OCI runtime spec: `c` or `u`, `b`, `p`.
    pub kind: char,
    pub major: i64,
    pub minor: i64,
    /// Permission bits on the host, without the file type.
    pub mode: u32,
    /// Owner on the host, unless the request names another.
    pub uid: u32,
    /// Group on the host, unless the request names another.
    pub gid: u32,
    /// The accesses that the container's cgroup allows: a subset of `rwm`, in this order.
    pub access: String,
}

/// The owner of a request's devices in the container, if it differs from the owner on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Owner {
    /// The user and group of a security context. Root is left out: it can open every device that the container has.
    #[must_use]
    pub fn of(context: Option<&LinuxContainerSecurityContext>) -> Self {
        let id = |value: Option<&Int64Value>| value.and_then(|id| u32::try_from(id.value).ok()).filter(|id| *id != 0);
        let Some(context) = context else { return Self::default() };
        Self { uid: id(context.run_as_user.as_ref()), gid: id(context.run_as_group.as_ref()) }
    }
}

/// Finds the devices of a request; with `all_host_devices` also every device below /dev, at the same path. A
/// directory stands for all devices below it. If two devices have the same path in the container, the first one wins,
/// and those of the request come first. `owner` applies to the request's devices only. Gives up after a minute.
///
/// # Errors
/// [`Error::Invalid`] names the field of the request; the other errors name the path.
pub async fn resolve(devices: &[Device], all_host_devices: bool, owner: Owner) -> Result<Vec<HostDevice>, Error> {
    let wanted: Vec<Wanted> =
        devices.iter().enumerate().map(|(index, device)| Wanted::new(index, device)).collect::<Result<_, _>>()?;
    if wanted.is_empty() && !all_host_devices {
        return Ok(Vec::new());
    }
    let work = move |progress: &Progress| {
        let mut found = Vec::new();
        for one in &wanted {
            found.extend(one.find(progress)?);
        }
        for device in &mut found {
            device.uid = owner.uid.unwrap_or(device.uid);
            device.gid = owner.gid.unwrap_or(device.gid);
        }
        if all_host_devices {
            found.extend(below(progress, Path::new("/dev"), Path::new("/dev"), ACCESSES)?);
        }
        let mut paths = HashSet::new();
        found.retain(|device| paths.insert(device.path.clone()));
        Ok(found)
    };
    host_paths::run(host_paths::DEADLINE, work).await
}

/// A device of the request whose fields are valid.
struct Wanted {
    index: usize,
    host_path: PathBuf,
    /// Path in the container; if the request has none, the path that `host_path` resolves to.
    container_path: Option<PathBuf>,
    access: String,
}

impl Wanted {
    fn new(index: usize, device: &Device) -> Result<Self, Error> {
        let host_path = absolute(&device.host_path).map_err(|problem| invalid(index, "host_path", problem))?;
        let container_path = match device.container_path.as_str() {
            "" => None,
            path => Some(cleaned(path).map_err(|problem| invalid(index, "container_path", problem))?),
        };
        let access = access(&device.permissions).map_err(|problem| invalid(index, "permissions", problem))?;
        Ok(Self { index, host_path: host_path.to_owned(), container_path, access })
    }

    fn find(&self, progress: &Progress) -> Result<Vec<HostDevice>, Error> {
        let shown = self.host_path.display();
        let path = match progress.step("resolve", &self.host_path, |path| std::fs::canonicalize(path)) {
            Err(error) if error.is_not_found() => {
                return Err(invalid(self.index, "host_path", format!("{shown} does not exist")));
            }
            Err(error) if error.is_too_long() => {
                return Err(invalid(self.index, "host_path", "has a name that is too long"));
            }
            other => other?,
        };
        let stat = progress.step("stat", &path, |path| std::fs::symlink_metadata(path))?;
        let in_container = self.container_path.as_deref().unwrap_or(&path);
        if stat.is_dir() {
            return below(progress, &path, in_container, &self.access);
        }
        match device(&stat, in_container.to_owned(), &self.access) {
            Some(device) => Ok(vec![device]),
            None => Err(invalid(self.index, "host_path", format!("{shown} is neither a device nor a directory"))),
        }
    }
}

fn invalid(index: usize, name: &str, problem: impl Into<String>) -> Error {
    Error::Invalid { field: format!("config.devices[{index}].{name}"), problem: problem.into() }
}

fn access(permissions: &str) -> Result<String, String> {
    match permissions.chars().find(|one| !ACCESSES.contains(*one)) {
        Some(other) => Err(format!("{other:?} is none of r, w and m")),
        // api.proto requires one or more. A device without any access would be of no use.
        None if permissions.is_empty() => Err("one or more of r, w and m are required".to_owned()),
        None => Ok(ACCESSES.chars().filter(|one| permissions.contains(*one)).collect()),
    }
}

/// All devices below a directory, except symlinks, FIFOs and consoles: /dev/console is the container's own terminal.
/// Entries that disappear during the search are skipped.
fn below(progress: &Progress, directory: &Path, in_container: &Path, access: &str) -> Result<Vec<HostDevice>, Error> {
    let mut found = Vec::new();
    let mut waiting = vec![(directory.to_owned(), in_container.to_owned())];
    while let Some((directory, in_container)) = waiting.pop() {
        let Some(names) = unless_gone(progress.step("read directory", &directory, names))? else { continue };
        for name in names {
            let (path, in_container) = (directory.join(&name), in_container.join(&name));
            let Some(stat) = unless_gone(progress.step("lstat", &path, |path| std::fs::symlink_metadata(path)))? else {
                continue;
            };
            let name = name.to_str().unwrap_or_default();
            if stat.is_dir() {
                if !SKIPPED_DIRECTORIES.contains(&name) {
                    waiting.push((path, in_container));
                }
            } else if name != "console" && !stat.file_type().is_fifo() {
                found.extend(device(&stat, in_container, access));
            }
        }
    }
    Ok(found)
}

fn unless_gone<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// The names in a directory, sorted, so that the same request always results in the same spec.
fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

/// The device that a file is, or `None`. The kernel does not distinguish unbuffered character devices, so the kind is
/// never `u`.
fn device(stat: &Metadata, path: PathBuf, access: &str) -> Option<HostDevice> {
    let file_type = stat.file_type();
    let kind = match () {
        () if file_type.is_char_device() => 'c',
        () if file_type.is_block_device() => 'b',
        () if file_type.is_fifo() => 'p',
        () => return None,
    };
    Some(HostDevice {
        path,
        kind,
        major: rustix::fs::major(stat.rdev()).into(),
        minor: rustix::fs::minor(stat.rdev()).into(),
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests;
