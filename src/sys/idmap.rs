//! Mounts whose files have other owners than on their file system: mount_setattr(2).
#![allow(unsafe_code, reason = "mount_setattr has no safe wrapper in nix or rustix")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Mounts an id-mapped, read-only copy of a directory over the directory itself. A file that belongs to id N on disk
/// then belongs to the host's id of N in the user namespace, so that processes in the namespace see it as N's. Only for
/// a mount namespace that no other thread is in.
///
/// # Errors
/// The error of the system call; `EINVAL` for a file system without support for this, and before Linux 5.12.
pub(super) fn mount_mapped_over(directory: &Path, users: &File) -> io::Result<()> {
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
    // SAFETY: the path is a constant, and the attributes have the kernel's layout and the size that is passed; both
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
