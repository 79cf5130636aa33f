//! Network namespaces: create, pin, enter, remove.
//!
//! A namespace exists as long as something refers to it. A sandbox's namespace is held by a bind mount of its nsfs file
//! on a path that is derived from the sandbox's id, so that nothing has to be stored. This module knows neither
//! sandboxes nor CNI: `crate::runtime` creates and removes namespaces, and `crate::network` gets the path.
//!
//! ```text
//! absent --create--> pinned (file + nsfs mount) --remove--> absent
//! absent, plain file, unmounted file, stacked mounts --remove--> absent
//! ```
//!
//! Entering a namespace changes a whole OS thread, so this only happens on a thread that ends afterwards: one of the
//! runtime's threads would stay in the namespace and run unrelated tasks there.

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

/// The operation that failed, and the namespace it failed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the namespaces could not be created, or not be made a shared mount.
    #[error("prepare netns directory {path}")]
    Directory {
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The namespace could not be created or pinned; `AlreadyExists` when something is already at the path.
    #[error("create netns {path}")]
    Create {
        /// Where the namespace was to be pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The mount or the file could not be removed.
    #[error("remove netns {path}")]
    Remove {
        /// Where the namespace is pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The namespace is gone, or there is none at the path.
    #[error("enter netns {path}")]
    Enter {
        /// Where the namespace should be pinned.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A netlink request in the namespace failed.
    #[error("set up interface {interface} of netns {path}")]
    Link {
        /// Where the namespace is or was to be pinned.
        path: PathBuf,
        interface: String,
        /// The error of the netlink request.
        source: io::Error,
    },
    /// The thread could not be started.
    #[error("thread for netns {path}")]
    Thread {
        /// The namespace that the thread was for.
        path: PathBuf,
        source: io::Error,
    },
}

/// Creates a network namespace with `lo` up and pins it at `path`. If the directory of `path` is missing, it is
/// created. It is also made a shared mount, as `ip netns` does, once.
///
/// The work runs to its end on a thread of its own, even when the future is dropped; undo it with [`remove`].
///
/// # Errors
/// [`Error::Create`] with `AlreadyExists` when something is at `path`, which is left alone. On every other error
/// nothing is left there.
pub async fn create(path: &Path) -> Result<(), Error> {
    let at = path.to_owned();
    enter::on_thread(path, move || pin_here(&at, || unshare(CloneFlags::CLONE_NEWNET))).await?
}

/// Pins a namespace that already exists and has no interface up, and brings `lo` up in it: one that a pod's user
/// namespace owns (`crate::userns` creates it).
///
/// # Errors
/// As [`create`].
pub async fn adopt(path: &Path, namespace: File) -> Result<(), Error> {
    let at = path.to_owned();
    enter::on_thread(path, move || pin_here(&at, || setns(&namespace, CloneFlags::CLONE_NEWNET))).await?
}

/// Pins the namespace that `enter` moves this thread into.
fn pin_here(path: &Path, enter: impl FnOnce() -> nix::Result<()>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Create { path: path.to_owned(), source };
    let directory = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    mounts::prepare_directory(directory).map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
    // Not /proc/self, which is the namespace of the process's first thread.
    nsfs::pin(Path::new("/proc/thread-self/ns/net"), path, failed, || {
        enter().map_err(|errno| failed(errno.into()))?;
        // Bring `lo` up before pinning: a pod may see the namespace as soon as it is pinned.
        links::set_loopback_up().map_err(|source| link_error(path, "lo", source))
    })
}

/// Unmounts all mounts at `path`, however many are stacked there, and deletes the file. Processes in the namespace keep
/// it alive. An absent path and a plain file are no errors.
///
/// # Errors
/// [`Error::Remove`] when the kernel refuses, or when `path` is a directory.
pub async fn remove(path: &Path) -> Result<(), Error> {
    nsfs::remove(path).await.map_err(|source| Error::Remove { path: path.to_owned(), source })
}

/// Whether a namespace is mounted at `path`. False for a plain file.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    mounts::is_nsfs(path)
}

/// The global addresses of `interface` in the namespace at `path`, in the kernel's order. For a sandbox whose CNI
/// result was lost.
///
/// # Errors
/// [`Error::Enter`] when there is no namespace at the path; [`Error::Link`] when the interface does not exist.
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
