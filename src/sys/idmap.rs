//! Mounts whose files have other owners than on their file system: mount_setattr(2).
#![allow(unsafe_code, reason = "mount_setattr has no safe wrapper in nix or rustix")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Covers a directory with itself, read-only: what belongs to an id of the user namespace on disk belongs to that id's
/// place on the host then, so that it is its own within. For a mount namespace that nobody else is in.
///
/// # Errors
/// The kernel's; `EINVAL` for a file system that cannot, and before Linux 5.12.
pub(super) fn cover(directory: &Path, users: &File) -> io::Result<()> {
    let tree = open_tree(CWD, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    map(&tree, users)?;
    Ok(move_mount(&tree, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn map(tree: &OwnedFd, users: &File) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(users.as_raw_fd().unsigned_abs()),
    };
    // SAFETY: the path is a constant, the attributes have the kernel's shape and are of the size that is said; both
    // outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
