//! The mounts that pin namespaces, and the directory that contains them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{FlockOperation, flock, fstatfs, statfs};

use crate::sys::mountinfo;

use crate::mutex::Mutex;

/// `f_type` of the filesystem of namespace files (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
const NONE: Option<&str> = None;

/// The directory that was last found to be on a shared mount, and the id of that mount. Reading mountinfo takes
/// milliseconds on a node with many pods; comparing the id takes one statx.
static SHARED: Mutex<Option<(PathBuf, u64)>> = Mutex::new(None);

/// Creates the directory, and makes it a shared mount unless it already is on one.
///
/// This is what `ip netns` does (iproute2, ip/ipnetns.c): agents mount this directory into their own mount namespace,
/// and only if the mount is shared does a later unmount of ours propagate to them; otherwise they keep the namespaces
/// of removed pods alive. A later `ip netns add` finds the directory prepared.
pub(super) fn prepare_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    if known_shared(directory) {
        return Ok(());
    }
    // Two concurrent bind mounts, both ours or one of `ip netns`, would stack two mounts.
    let lock = File::open(directory)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let shared = MsFlags::MS_SHARED;
    match mount(NONE, directory, NONE, shared, NONE) {
        Ok(()) => {}
        // The directory is not a mount point itself. If it is on a shared mount, there is nothing to do: a mount on it
        // is shared too.
        Err(Errno::EINVAL) if is_on_shared_mount(directory)? => {}
        Err(Errno::EINVAL) => {
            mount(Some(directory), directory, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            if let Err(errno) = mount(NONE, directory, NONE, shared, NONE) {
                let _ = umount2(directory, MntFlags::MNT_DETACH);
                return Err(errno.into());
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    let found = mount_id(directory).map(|id| (directory.to_owned(), id));
    *SHARED.lock() = found;
    Ok(())
}

/// Whether there is a namespace file at the path.
pub(super) fn is_nsfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

/// Whether the open file is a namespace file.
pub(super) fn is_nsfs_file(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

fn known_shared(directory: &Path) -> bool {
    let known = SHARED.lock().clone();
    known.is_some_and(|(path, id)| path == directory && mount_id(directory) == Some(id))
}

/// The id of the mount that the directory is on; `None` before Linux 5.8.
fn mount_id(directory: &Path) -> Option<u64> {
    mountinfo::mount_id(directory).ok().flatten()
}

fn is_on_shared_mount(directory: &Path) -> io::Result<bool> {
    // Without the id this cannot be decided, but a bind mount of our own is correct in any case.
    let Some(id) = mount_id(directory) else { return Ok(false) };
    Ok(is_shared(&fs::read("/proc/thread-self/mountinfo")?, id))
}

fn is_shared(mountinfo: &[u8], id: u64) -> bool {
    mountinfo::mounts(mountinfo).any(|mount| mount.id == id && mount.is_shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directorys_own_mount_says_whether_it_is_shared() {
        let mountinfo = b"22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/a rw\n\
                          23 22 0:21 / /run rw - tmpfs tmpfs rw\n\
                          24 22 0:22 / /mnt rw master:1 - tmpfs t rw\n";
        assert_eq!([22, 23, 24, 2].map(|id| is_shared(mountinfo, id)), [true, false, false, false]);
    }
}
