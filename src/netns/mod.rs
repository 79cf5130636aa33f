//! Network namespaces: create, pin, enter, remove.
//!
//! A namespace lives as long as something holds it; ours is held by a bind mount of its nsfs
//! file on a path that is derived from the sandbox's id, so that nothing has to be stored.
//! This room knows neither sandboxes nor CNI: `crate::runtime` creates and removes,
//! `crate::network` is told the path.
//!
//! ```text
//! absent --create--> pinned (file + nsfs mount) --remove--> absent
//! absent, plain file, unmounted file, stacked mounts --remove--> absent
//! ```
//!
//! Entering a namespace changes a whole OS thread, so it is only ever done on a thread that
//! is thrown away afterwards: one of the runtime's would carry it on to foreign work.

mod counters;
mod enter;
mod links;
mod mounts;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

pub use counters::{Counters, Interface, Traffic};
pub use enter::enter;

use crate::sys::nsfs;

/// What failed, and on which namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the namespaces could not be made, or made a shared mount.
    #[error("prepare netns directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No namespace could be made or pinned; `AlreadyExists` when the path is taken.
    #[error("create netns {path}")]
    Create {
        /// Where it was to be pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount or the file is still there.
    #[error("remove netns {path}")]
    Remove {
        /// Where it is pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace is gone, or the path holds none.
    #[error("enter netns {path}")]
    Enter {
        /// Where it should be pinned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A netlink request within the namespace was refused.
    #[error("set up interface {interface} of netns {path}")]
    Link {
        /// Where the namespace is or was to be pinned.
        path: PathBuf,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread could not be started, or it panicked.
    #[error("thread for netns {path}")]
    Thread {
        /// The namespace it was for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes a network namespace with `lo` up and pins it at `path`. The directory of `path` is
/// made when it is missing, and a shared mount as `ip netns` makes it, once.
///
/// It runs to its end on a thread of its own even when the future is dropped; undo it with
/// [`remove`].
///
/// # Errors
/// [`Error::Create`] with `AlreadyExists` when something is at `path`, which is left alone.
/// On every other error nothing is left there.
pub async fn create(path: &Path) -> Result<(), Error> {
    let at = path.to_owned();
    enter::on_thread(path, move || pin_here(&at, || unshare(CloneFlags::CLONE_NEWNET))).await?
}

/// Does the same with a namespace that is there already and has nothing up: one that a pod's user namespace owns
/// (`crate::userns` makes it).
///
/// # Errors
/// As [`create`].
pub async fn adopt(path: &Path, namespace: File) -> Result<(), Error> {
    let at = path.to_owned();
    enter::on_thread(path, move || pin_here(&at, || setns(&namespace, CloneFlags::CLONE_NEWNET))).await?
}

/// Pins the namespace that `enter` brings this thread into.
fn pin_here(path: &Path, enter: impl FnOnce() -> nix::Result<()>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Create { path: path.to_owned(), source };
    let directory = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    mounts::prepare_directory(directory).map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
    // Not /proc/self: that is the namespace of the process's first thread.
    nsfs::pin(Path::new("/proc/thread-self/ns/net"), path, failed, || {
        enter().map_err(|errno| failed(errno.into()))?;
        // `lo` first: a pod may see the namespace as soon as it is pinned.
        links::set_loopback_up().map_err(|source| link_error(path, "lo", source))
    })
}

/// Unmounts what is pinned at `path`, however often it was mounted there, and deletes the
/// file. Processes that are in the namespace keep it. Absent is fine, and so is a plain file.
///
/// # Errors
/// [`Error::Remove`] when the kernel refuses, or `path` is a directory.
pub async fn remove(path: &Path) -> Result<(), Error> {
    nsfs::remove(path).await.map_err(|source| Error::Remove { path: path.to_owned(), source })
}

/// Whether a namespace is mounted at `path`; a plain file in its place is none.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    mounts::is_nsfs(path)
}

/// The global addresses of `interface` in the namespace at `path`, in the kernel's order. For
/// a sandbox whose CNI result was lost.
///
/// # Errors
/// [`Error::Enter`] when no namespace is there; [`Error::Link`] when the interface is not.
pub async fn addresses(path: &Path, interface: &str) -> Result<Vec<IpAddr>, Error> {
    let name = interface.to_owned();
    let found = enter(path, move || links::global_addresses(&name)).await?;
    found.map_err(|source| link_error(path, interface, source))
}

fn link_error(path: &Path, interface: &str, source: io::Error) -> Error {
    Error::Link { path: path.to_owned(), interface: interface.to_owned(), source }
}

#[cfg(test)]
mod tests;
