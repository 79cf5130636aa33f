//! Namespaces that are held by a mount of their file (namespaces(7)).

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::joined::run_blocking;

/// Permissions of the file under the mount, as with `ip netns add`. The file itself has no content.
const FILE_MODE: u32 = 0o444;

/// Creates a file at `path`, calls `prepare`, and then mounts the namespace file `namespace` on it. On failure nothing
/// new is left at `path`.
///
/// # Errors
/// An error of `prepare` is returned as it is; all others are passed through `failed`: `AlreadyExists` when something
/// is at `path`, else the error of the system call.
pub fn pin<E>(
    namespace: &Path,
    path: &Path,
    failed: impl Fn(io::Error) -> E,
    prepare: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    drop(file.map_err(&failed)?);
    let bind = || mount(Some(namespace), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    let pinned = prepare().and_then(|()| bind().map_err(|errno| failed(errno.into())));
    if pinned.is_err() {
        // The first error is reported. If the cleanup fails, a later removal tries again.
        let _ = unpin(path);
    }
    pinned
}

/// Runs [`unpin`] on a thread that may block.
///
/// # Errors
/// The error of the system call.
pub async fn remove(path: &Path) -> io::Result<()> {
    let at = path.to_owned();
    run_blocking(move || unpin(&at)).await
}

/// Unmounts everything that is mounted on `path` and deletes the file. An absent path is no error.
///
/// # Errors
/// The error of the system call.
pub fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Repeat: a crash between two attempts may have left stacked mounts.
            Ok(()) => {}
            // EINVAL: there is no mount (any more).
            Err(Errno::EINVAL) => break,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
