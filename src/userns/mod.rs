//! User namespaces of pods: made, pinned, removed, and what an id within is outside.
//!
//! A pod's is made before its first process and pinned on a path that is derived from the sandbox's id, as its network
//! namespace is (`crate::netns`), which it owns: whoever is root within may set up its interfaces and sysctls. The pause
//! container joins both by their paths, the pod's containers join the pause process. Nothing is stored, and a restart
//! of the daemon changes nothing. This room knows neither sandboxes nor CRI: `crate::runtime` calls it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::sys::nsfs;
pub use crate::sys::userns::Range;
use crate::sys::userns::{self, Namespaces};

/// What a pod's ids are on the host. Its root is always among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// User ids.
    pub uids: Range,
    /// Group ids.
    pub gids: Range,
}

impl Mapping {
    /// The host's id of a user of the pod; `None` for one that is not mapped.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        on_host(self.uids, uid)
    }

    /// The same for a group.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        on_host(self.gids, gid)
    }
}

fn on_host(range: Range, id: u32) -> Option<u32> {
    (id < range.length).then(|| range.host.checked_add(id))?
}

/// What failed, and on which namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not make it, or its maps.
    #[error("create user namespace {path}")]
    Create {
        /// Where it was to be pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could not be pinned; `AlreadyExists` when the path is taken.
    #[error("pin user namespace {path}")]
    Pin {
        /// Where it was to be pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount or the file is still there.
    #[error("remove user namespace {path}")]
    Remove {
        /// Where it is pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes a user namespace and pins it at `path`, whose directory has to be there. With `network`, gives a
/// network namespace that it owns, for `crate::netns` to pin. It runs to its end even when the future is dropped; undo
/// it with [`remove`].
///
/// # Errors
/// [`Error`]; nothing is left at `path` then that was not there before.
pub async fn create(path: &Path, mapping: Mapping, network: bool) -> Result<Option<File>, Error> {
    let at = path.to_owned();
    let made = tokio::task::spawn_blocking(move || create_here(&at, mapping, network)).await;
    made.unwrap_or_else(|panic| Err(Error::Create { path: path.to_owned(), source: io::Error::other(panic) }))
}

fn create_here(path: &Path, mapping: Mapping, network: bool) -> Result<Option<File>, Error> {
    let made = userns::create(mapping.uids, mapping.gids, network);
    let Namespaces { user, network } = made.map_err(|source| Error::Create { path: path.to_owned(), source })?;
    let link = format!("/proc/self/fd/{}", user.as_raw_fd());
    nsfs::pin(Path::new(&link), path, |source| Error::Pin { path: path.to_owned(), source }, || Ok(()))?;
    Ok(network)
}

/// Unmounts what is pinned at `path` and deletes the file. Processes that are in the namespace keep it. Absent is fine.
///
/// # Errors
/// [`Error::Remove`] when the kernel refuses.
pub async fn remove(path: &Path) -> Result<(), Error> {
    nsfs::remove(path).await.map_err(|source| Error::Remove { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths on which nothing is mounted once this is gone, also after a failure.
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
    async fn it_is_pinned_once_and_removed_whatever_is_there() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
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
    async fn its_network_namespace_has_loopback_and_its_root_owns_what_is_in_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
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
