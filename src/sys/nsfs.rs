//! Namespaces that are held by a mount of their file (namespaces(7)).

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Permissions of the file under the mount, as `ip netns add` makes it: nobody opens it for data.
const FILE_MODE: u32 = 0o444;

/// Makes the file that a namespace is to be pinned on.
///
/// # Errors
/// `AlreadyExists` when something is there; otherwise the file system's.
pub fn make_file(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path).map(drop)
}

/// Mounts the namespace file on the one at `path`.
///
/// # Errors
/// The kernel's.
pub fn pin(namespace: &Path, path: &Path) -> io::Result<()> {
    mount(Some(namespace), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(Into::into)
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
