//! User namespaces of pods: create, pin, remove, and map ids in the namespace to ids on the host.
//!
//! A pod's user namespace is created before its first process and pinned on a path that is derived from the sandbox's
//! id, like the pod's network namespace (`crate::netns`). The user namespace owns the network namespace, so root in the
//! pod may set up its interfaces and sysctls. The pause container joins both by their paths, and the pod's containers
//! join the namespaces of the pause process. Nothing is stored, and a restart of the daemon changes nothing. This
//! module knows neither sandboxes nor CRI: `crate::runtime` calls it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::joined::run_blocking;
use crate::sys::nsfs;
pub use crate::sys::userns::Range;
use crate::sys::userns::{self, Namespaces};

/// Maps the ids in a pod's user namespace to ids on the host. The pod's root is always mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub uids: Range,
    pub gids: Range,
}

impl Mapping {
    /// The host's id of a user in the pod; `None` if the user is not mapped.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        on_host(self.uids, uid)
    }

    /// The host's id of a group in the pod; `None` if the group is not mapped.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        on_host(self.gids, gid)
    }
}

fn on_host(range: Range, id: u32) -> Option<u32> {
    (id < range.length).then(|| range.host.checked_add(id))?
}

/// The operation that failed, and the namespace it failed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the namespace or its id maps.
    #[error("create user namespace {path}")]
    Create {
        /// Where the namespace was to be pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The namespace could not be pinned; `AlreadyExists` when something is already at the path.
    #[error("pin user namespace {path}")]
    Pin {
        /// Where the namespace was to be pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The mount or the file could not be removed.
    #[error("remove user namespace {path}")]
    Remove {
        /// Where the namespace is pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Creates a user namespace and pins it at `path`, whose directory must exist. With `network`, also creates a network
/// namespace that it owns and returns it, for `crate::netns` to pin. The work runs to its end even when the future is
/// dropped; undo it with [`remove`].
///
/// # Errors
/// The namespace could not be created or pinned. Nothing new is left at `path` then.
pub async fn create(path: &Path, mapping: Mapping, network: bool) -> Result<Option<File>, Error> {
    let at = path.to_owned();
    run_blocking(move || create_here(&at, mapping, network)).await
}

fn create_here(path: &Path, mapping: Mapping, network: bool) -> Result<Option<File>, Error> {
    let made = userns::create(mapping.uids, mapping.gids, network);
    let Namespaces { user, network } = made.map_err(|source| Error::Create { path: path.to_owned(), source })?;
    let link = format!("/proc/self/fd/{}", user.as_raw_fd());
    nsfs::pin(Path::new(&link), path, |source| Error::Pin { path: path.to_owned(), source }, || Ok(()))?;
    Ok(network)
}

/// Unmounts the namespace at `path` and deletes the file. Processes in the namespace keep it alive. An absent path is
/// no error.
///
/// # Errors
/// [`Error::Remove`] when the kernel refuses.
pub async fn remove(path: &Path) -> Result<(), Error> {
    nsfs::remove(path).await.map_err(|source| Error::Remove { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmounts everything at these paths on drop, also after a failed test.
    struct Unmounted([PathBuf; 3]);

    impl Drop for Unmounted {
        fn drop(&mut self) {
            for path in &self.0 {
                while nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
            }
        }
    }

    const MAPPING: Mapping =
        Mapping { uids: Range { host: 70_000, length: 65_536 }, gids: Range { host: 80_000, length: 65_536 } };

    #[test]
    fn an_id_past_the_end_is_nobodys() {
        assert_eq!(MAPPING.host_uid(0), Some(70_000));
        assert_eq!(MAPPING.host_gid(65_535), Some(145_535));
        assert_eq!(MAPPING.host_uid(65_536), None);
        let last = Range { host: u32::MAX - 1, length: 2 };
        assert_eq!(Mapping { uids: last, gids: last }.host_uid(1), Some(u32::MAX));
    }

    #[tokio::test]
    #[ignore = "needs root"]
    async fn it_is_pinned_once_and_removed_whatever_is_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a");
        remove(&path).await.unwrap();
        assert!(create(&path, MAPPING, false).await.unwrap().is_none());
        assert!(crate::netns::is_pinned(&path));
        let again = create(&path, MAPPING, true).await.unwrap_err();
        assert!(matches!(&again, Error::Pin { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert!(crate::netns::is_pinned(&path), "what is there is left alone");
        remove(&path).await.unwrap();
        remove(&path).await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    #[ignore = "needs root"]
    async fn its_network_namespace_has_loopback_and_its_root_owns_what_is_in_it() {
        let place = tempfile::tempdir().unwrap();
        let (user, network) = (place.path().join("user"), place.path().join("netns").join("a"));
        let _gone = Unmounted([user.clone(), network.clone(), place.path().join("netns")]);
        let made = create(&user, MAPPING, true).await.unwrap().unwrap();
        crate::netns::adopt(&network, made).await.unwrap();
        let bound = crate::netns::enter(&network, || std::net::TcpListener::bind("127.0.0.1:0").map(drop)).await;
        bound.unwrap().unwrap();
        let owner = crate::netns::enter(&network, || {
            std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/sys/net/ipv4/ip_forward").unwrap())
        });
        assert_eq!(owner.await.unwrap(), 70_000);
    }
}
