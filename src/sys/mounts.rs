//! Private, read-only access to a snapshot. The snapshot is mounted in a mount namespace that no other process can see,
//! and one file descriptor holds the mount. Closing the descriptor unmounts it; so does the end of this process. The
//! mount has no path on the host, except for what [`attach`] attaches.

mod options;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use self::options::{LOWER, Options};
use super::read::only_regular;
use super::{idmap, userns};

/// The mount point in the private namespace: a directory that every Linux node has, and that never is the source of a
/// snapshot's mounts.
const TARGET: &str = "/proc";

/// The flags for access by [`MountedRoot`], which only reads.
const READ_ONLY_ACCESS: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// How long to retry openat2. It fails on a `..` if anything was mounted or renamed anywhere on the node during the
/// walk; a node that starts many pods can keep that up for a while.
const RACES: Duration = Duration::from_secs(10);

/// A mount, with the fields of mount(8).
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// File system type; `bind` and `rbind` are bind mounts.
    pub fs_type: String,
    /// Device, directory, or name.
    pub source: String,
    /// Flags and data; also `uidmap=0:HOST:LENGTH` and `gidmap=`, as containerd's snapshotters write them, and
    /// SELinux's `context=`, also for bind mounts.
    pub options: Vec<String>,
}

/// Why [`attach`] failed; nothing is attached then.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The directory cannot be opened in the snapshot.
    #[error("open the sub path in the snapshot")]
    SubPath(#[source] io::Error),
    /// The snapshot could not be mounted.
    #[error("mount")]
    Mount(#[source] io::Error),
}

/// The root directory of a mounted snapshot.
#[derive(Debug)]
pub struct MountedRoot {
    root: OwnedFd,
    /// Dropping this ends the thread, and with it its mount namespace. The namespace must exist as long as the root is
    /// used: in a mount whose namespace is gone, openat2 fails with EAGAIN on every `..` forever (seen on Linux 6.18).
    _release: mpsc::Sender<()>,
}

impl MountedRoot {
    /// Mounts a snapshot read-only. Blocks; for `spawn_blocking`.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::Unsupported`] for a snapshotter whose mounts need more than one
    /// mount(2).
    pub fn mount(spec: MountSpec) -> io::Result<Self> {
        // The thread leaves the host's mount namespace permanently, so it must not belong to a thread pool.
        let (mounted, result) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
            if mounted.send(mount_privately(&spec, READ_ONLY_ACCESS)).is_ok() {
                // Returns an error when the sender is dropped; nothing is ever sent.
                let _ = released.recv();
            }
        })?;
        let root = result.recv().expect("the thread answers: a panic ends the process")?;
        Ok(Self { root, _release: release })
    }

    /// Opens a path as a process with this root directory would, including symlinks and `..`, but without the magic
    /// links of /proc. The path must lead to a regular file.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::InvalidInput`] for anything but a regular file.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        // O_PATH first: opening a device or a FIFO runs code of its driver, or waits.
        let found = only_regular(self.resolve(path, OFlags::PATH).map(File::from))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(self.resolve(path, flags)?);
        let inode = |stat: Metadata| (stat.dev(), stat.ino());
        // A committed snapshot does not change. If it changed nevertheless, this is an error.
        if inode(file.metadata()?) != inode(found.metadata()?) {
            return Err(io::Error::other("changed while it was opened"));
        }
        Ok(file)
    }

    /// Opens a directory in the same way.
    ///
    /// # Errors
    /// The error of the system call; [`io::ErrorKind::NotADirectory`] for anything but a directory.
    pub fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        retry_races(|| openat2(self.root.as_fd(), relative, flags | OFlags::CLOEXEC, Mode::empty(), how))
    }
}

/// Repeats the walk until nothing interferes with it, for [`RACES`] at most.
fn retry_races(mut walk: impl FnMut() -> rustix::io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + RACES;
    loop {
        match walk() {
            Err(Errno::AGAIN) if Instant::now() < deadline => pause(),
            other => return Ok(other?),
        }
    }
}

/// Lets concurrent mounts proceed. The calling thread may block.
fn pause() {
    #[allow(clippy::disallowed_methods, reason = "never on a thread of the runtime, see MountedRoot::mount")]
    std::thread::sleep(Duration::from_micros(200));
}

/// Mounts a snapshot read-only on the directory `target`. With a `sub_path`, only that directory of the snapshot is
/// mounted; it must be a clean relative path (empty for the whole snapshot). The mount appears on `target` in one step,
/// never half done. Blocks; for `spawn_blocking`.
///
/// # Errors
/// [`AttachError::SubPath`] with `EXDEV` for a sub path that leads out of the snapshot (absolute symlinks do), or with
/// another error of its lookup; else [`AttachError::Mount`].
pub fn attach(spec: MountSpec, sub_path: &Path, target: &Path) -> Result<(), AttachError> {
    let sub_path = if sub_path.as_os_str().is_empty() { PathBuf::from(".") } else { sub_path.to_owned() };
    let private = std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
        // Unlike with [`READ_ONLY_ACCESS`], files may be executed from a volume: the permissions of its directory on
        // the host keep users out.
        let root = mount_privately(&spec, MsFlags::MS_RDONLY).map_err(AttachError::Mount)?;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = retry_races(|| openat2(root.as_fd(), &sub_path, flags, Mode::empty(), how));
        let found = found.map_err(AttachError::SubPath)?;
        // A copy of the mount that belongs to no mount namespace, so that it outlives this one.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&found, "", flags).map_err(|error| AttachError::Mount(error.into()))
    });
    let private = private.map_err(AttachError::Mount)?;
    let tree = private.join().expect("a panic ends the process")?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| AttachError::Mount(error.into()))
}

/// Removes all mounts from a trusted path; a path without mounts is no error. Processes that use a mount keep it: a
/// container has its own copy in its mount namespace.
///
/// # Errors
/// The error of umount2(2).
pub fn detach(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn mount_privately(spec: &MountSpec, flags: MsFlags) -> io::Result<OwnedFd> {
    let options = Options::parse(&spec.options)?;
    // Before anything is mounted over /proc, which `userns::create` needs.
    let users = options.ids.map(|(uids, gids)| userns::create(uids, gids, false)).transpose()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Our mounts must not propagate to the host, but unmounts on the host should propagate to here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    if let Some(users) = &users {
        // An overlay itself cannot be id-mapped, but its layers can.
        for layer in layers(spec, &options)? {
            idmap::mount_mapped_over(&layer, &users.user)?;
        }
    }
    if !matches!(spec.fs_type.as_str(), "bind" | "rbind") {
        mount_file_system(spec, options, flags)?;
    } else if options.has("context=") {
        mount_labelled(spec, options, flags)?;
    } else {
        mount(Some(spec.source.as_str()), TARGET, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        mount(None::<&str>, TARGET, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, None::<&str>)?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(TARGET, flags, Mode::empty())?)
}

fn mount_file_system(spec: &MountSpec, options: Options, flags: MsFlags) -> io::Result<()> {
    if spec.fs_type.contains('/') {
        // containerd's mount manager has types such as `format/mkdir/overlay`.
        return Err(unsupported(format!("mounts of type {}", spec.fs_type)));
    }
    let data = options.shortened()?;
    Ok(mount(Some(spec.source.as_str()), TARGET, Some(spec.fs_type.as_str()), flags, Some(data.as_str()))?)
}

/// A bind mount cannot have a label, but an overlay can. The directory becomes the upper of two read-only layers; the
/// other one is empty.
fn mount_labelled(spec: &MountSpec, mut options: Options, flags: MsFlags) -> io::Result<()> {
    mount(Some("tmpfs"), TARGET, Some("tmpfs"), READ_ONLY_ACCESS, None::<&str>)?;
    options.data.push(format!("{LOWER}{}:{TARGET}", spec.source));
    let overlay = MountSpec { fs_type: "overlay".to_owned(), source: "overlay".to_owned(), options: Vec::new() };
    mount_file_system(&overlay, options, flags)
}

/// The directories whose files a mount shows.
fn layers(spec: &MountSpec, options: &Options) -> io::Result<Vec<PathBuf>> {
    match spec.fs_type.as_str() {
        "bind" | "rbind" => Ok(vec![PathBuf::from(&spec.source)]),
        "overlay" => Ok(options.lower().map(|(_, layers)| layers).unwrap_or_default()),
        other => Err(unsupported(format!("mapped ids on mounts of type {other}"))),
    }
}

fn unsupported(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}

#[cfg(test)]
mod tests;
