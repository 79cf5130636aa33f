//! One instance for each containerd namespace. An instance takes over every pod in its namespace when it starts, so two
//! of them would act on each other's pods.
//!
//! The lock is a file next to containerd's socket. That is the one place that two instances share, whatever directories
//! and sockets they have themselves; a symlink to the socket, or another mount of its directory, leads to the same file.
//!
//! - It ends with the process that holds it, however that ends: flock(2) belongs to an open file, and the file is closed
//!   on exec, so no CNI plugin inherits it.
//! - No other user can hold it: the file can be opened by its owner only. Another user could prepare the file only where
//!   that user could also replace containerd's socket; a file of another owner is refused.
//! - The file is never removed. No other instance would see a lock on a removed file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::listen;
use crate::config::ContainerdSection;
use crate::sys::{read, write};

/// The largest lock file whose content is read; it has a pid and a newline.
const LARGEST_FILE: u64 = 32;

/// Takes the lock of a containerd that answers, and holds it until the process ends. If another instance is still
/// ending, waits for it.
///
/// # Errors
/// Another instance holds the lock, or the file cannot be used.
pub(super) async fn lock(containerd: &ContainerdSection) -> anyhow::Result<()> {
    let lock = listen::after_another(|| try_lock(&containerd.address, &containerd.namespace)).await?;
    // The kernel unlocks it when the process has ended. Until then, operations may still be in progress.
    std::mem::forget(lock);
    Ok(())
}

fn try_lock(address: &Path, namespace: &str) -> anyhow::Result<Flock<File>> {
    let path = lock_file(address, namespace)?;
    let file = write::regular(&path).with_context(|| format!("open {}", path.display()))?;
    let owner = file.metadata().with_context(|| format!("stat {}", path.display()))?.uid();
    if owner != geteuid().as_raw() {
        bail!("the lock file {} belongs to the user with id {owner}; remove it", path.display());
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            if let Err(error) = write_pid(&lock) {
                tracing::warn!(file = %path.display(), %error, "cannot write our pid into the lock file");
            }
            Ok(lock)
        }
        Err((_, nix::Error::EWOULDBLOCK)) => bail!(
            "{} serves the namespace {namespace} of the containerd at {}; two instances would act on each other's pods",
            holder(&path),
            address.display()
        ),
        Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", path.display())),
    }
}

/// `/run/containerd/containerd.sock.pontoon-k8s.io.lock`. The namespace has no `/`: the configuration is checked.
fn lock_file(address: &Path, namespace: &str) -> anyhow::Result<PathBuf> {
    let socket =
        fs::canonicalize(address).with_context(|| format!("containerd.address: find {}", address.display()))?;
    let mut path = socket.into_os_string();
    path.push(format!(".pontoon-{namespace}.lock"));
    Ok(path.into())
}

/// For the error of the second instance.
fn write_pid(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn holder(path: &Path) -> String {
    let pid = read::text(path, LARGEST_FILE).ok().and_then(|text| text.trim().parse::<u32>().ok());
    pid.map_or_else(|| "another pontoon".to_owned(), |pid| format!("another pontoon (pid {pid})"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// The lock is taken for a path: whether a server listens there makes no difference.
    fn socket(directory: &Path) -> PathBuf {
        let path = directory.join("containerd.sock");
        fs::write(&path, "").unwrap();
        path
    }

    fn refusal(address: &Path, namespace: &str) -> String {
        try_lock(address, namespace).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_second_instance_is_refused_by_whatever_path_it_reaches_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let address = socket(directory.path());
        let link = directory.path().join("link.sock");
        symlink(&address, &link).unwrap();
        let first = try_lock(&address, "k8s.io").unwrap();
        let pid = std::process::id();
        for path in [&address, &link, &directory.path().join("./containerd.sock")] {
            let expected = format!(
                "another pontoon (pid {pid}) serves the namespace k8s.io of the containerd at {}; \
                 two instances would act on each other's pods",
                path.display()
            );
            assert_eq!(refusal(path, "k8s.io"), expected);
        }
        let _other_namespace = try_lock(&address, "elsewhere").unwrap();
        drop(first);
        let _next = try_lock(&link, "k8s.io").unwrap();
    }

    #[test]
    fn a_holder_whose_pid_is_not_known_is_another_pontoon() {
        let directory = tempfile::tempdir().unwrap();
        let address = socket(directory.path());
        let file = lock_file(&address, "k8s.io").unwrap();
        let _lock = Flock::lock(File::create(&file).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert!(refusal(&address, "k8s.io").starts_with("another pontoon serves the namespace k8s.io of "));
    }

    #[test]
    fn other_users_cannot_hold_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let address = socket(directory.path());
        let file = lock_file(&address, "k8s.io").unwrap();
        drop(try_lock(&address, "k8s.io").unwrap());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

        fs::remove_file(&file).unwrap();
        symlink(directory.path().join("elsewhere"), &file).unwrap();
        assert!(refusal(&address, "k8s.io").starts_with(&format!("open {}: ", file.display())));

        if !geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        fs::remove_file(&file).unwrap();
        fs::write(&file, "").unwrap();
        chown(&file, Some(65534), None).unwrap();
        let expected = format!("the lock file {} belongs to the user with id 65534; remove it", file.display());
        assert_eq!(refusal(&address, "k8s.io"), expected);
    }
}
