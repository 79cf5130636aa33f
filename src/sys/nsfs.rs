//! Namespaces that are held by a mount of their file (namespaces(7)).

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Permissions of the file under the mount, as `ip netns add` makes it: nobody opens it for data.
const FILE_MODE: u32 = 0o444;

/// Makes the file at `path` and pins on it the namespace whose file `namespace` leads to, once `prepare` has been done. On
/// failure nothing is left there that was not there before.
///
/// # Errors
/// `prepare`'s, and what `failed` makes of the others: `AlreadyExists` when something is at `path`; otherwise the kernel's.
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
        // The first error is the one to report; what cannot be undone here, a removal retries.
        let _ = unpin(path);
    }
    pinned
}

/// [`unpin`] on a thread that may block.
///
/// # Errors
/// The kernel's.
pub async fn remove(path: &Path) -> io::Result<()> {
    let at = path.to_owned();
    tokio::task::spawn_blocking(move || unpin(&at)).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// Unmounts all that is mounted on `path` and unlinks it; absent is fine.
///
/// # Errors
/// The kernel's.
pub fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Again: a crash between two attempts may have stacked them.
            Ok(()) => {}
            // EINVAL: no mount is there (any more).
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
