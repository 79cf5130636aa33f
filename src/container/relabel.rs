//! SELinux labels of a container's volumes.
//!
//! A volume is relabelled where kubelet asks for it and only then (CVE-2021-43816), and not when its top has the
//! label already. The top is labelled last: one that has it says that all below it has.

mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host_paths::{self, Error, Progress};
use super::mounts::HostMount;

/// How long all volumes of a container may take; a big one takes minutes, and a retry of kubelet's joins.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// What no volume is: a label of one pod's there would take the node apart. The field's list, with what its
/// symlinks lead to.
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

/// Refuses what may not be relabelled, before anything is.
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

/// The sources of those mounts that ask for it.
#[must_use]
pub fn wanted(mounts: &[HostMount]) -> Vec<PathBuf> {
    mounts.iter().filter(|one| one.mount.selinux_relabel).map(|one| one.source.clone()).collect()
}

/// Labels trees. Goes on as long as it gets on: only a single call that does not return is given up after a minute.
///
/// # Errors
/// [`Error::Stuck`] and [`Error::Io`] name call and path.
pub async fn trees(paths: Vec<PathBuf>, label: String) -> Result<(), Error> {
    if paths.is_empty() {
        return Ok(());
    }
    let work = move |progress: &Progress| paths.iter().try_for_each(|path| walk::tree(progress, path, &label));
    host_paths::run_on(host_paths::DEADLINE, LONGEST, work).await
}

#[cfg(test)]
mod tests;
