//! SELinux labels of a container's volumes.
//!
//! A volume is relabelled only if kubelet requests it (CVE-2021-43816), and not if its top directory already has the
//! label. The top directory is labelled last, so a label there means that everything below has it too.

mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host_paths::{self, Error, Progress};
use super::mounts::HostMount;

/// How long relabelling all volumes of a container may take. A large volume takes minutes; a retry by kubelet joins
/// the running operation.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Paths that are never a volume: a pod's label on one of them would break the node. The list that other runtimes
/// use, with the targets of its symlinks.
const PROTECTED: [&str; 28] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Refuses mounts that must not be relabelled, before any volume is.
///
/// # Errors
/// [`Error::Invalid`] names the mount.
pub fn check(mounts: &[HostMount]) -> Result<(), Error> {
    for (index, one) in mounts.iter().enumerate() {
        if one.mount.selinux_relabel && PROTECTED.iter().any(|path| one.source == Path::new(path)) {
            return Err(Error::Invalid {
                field: format!("config.mounts[{index}].selinux_relabel"),
                problem: format!("{} belongs to the node and is not relabelled", one.source.display()),
            });
        }
    }
    Ok(())
}

/// The sources of the mounts that request relabelling.
#[must_use]
pub fn wanted(mounts: &[HostMount]) -> Vec<PathBuf> {
    mounts.iter().filter(|one| one.mount.selinux_relabel).map(|one| one.source.clone()).collect()
}

/// Labels the trees below `paths`. Continues as long as it makes progress; gives up only if a single call does not
/// return within a minute, or after 30 minutes.
///
/// # Errors
/// [`Error::Stuck`] and [`Error::Io`] name the call and the path.
pub async fn trees(paths: Vec<PathBuf>, label: String) -> Result<(), Error> {
    if paths.is_empty() {
        return Ok(());
    }
    let work = move |progress: &Progress| paths.iter().try_for_each(|path| walk::tree(progress, path, &label));
    host_paths::run_with_limit(host_paths::DEADLINE, TIME_LIMIT, work).await
}

#[cfg(test)]
mod tests;
