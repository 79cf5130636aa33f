//! Private, read-only access to a snapshot. The snapshot is mounted in a mount namespace that no other process can see,
//! and one file descriptor holds the mount. Closing the descriptor unmounts it; so does the end of this process. The
//! mount has no path on the host, except for what [`attach`] attaches.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use super::idmap;
use super::userns::{self, Range};

/// The mount point in the private namespace: a directory that every Linux node has, and that never is the source of a
/// snapshot's mounts.
const TARGET: &str = "/proc";

/// The flags for access by [`MountedRoot`], which only reads.
const READ_ONLY_ACCESS: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The option with the layers of an overlay, the topmost first.
const LOWER: &str = "lowerdir=";

/// The kernel accepts one page of options.
const LONGEST_OPTIONS: usize = 4095;

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
        let found = self.resolve(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&found)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(super::read::not_regular());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.resolve(path, flags)?;
        let opened = rustix::fs::fstat(&file)?;
        // A committed snapshot does not change. If it changed nevertheless, this is an error.
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(io::Error::other("changed while it was opened"));
        }
        Ok(File::from(file))
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

/// The options without the flags, which this module chooses by itself.
struct Options {
    /// Options for the file system.
    data: Vec<String>,
    /// The user and group ids on the host that own the files, as maps of a user namespace.
    ids: Option<(Range, Range)>,
}

impl Options {
    fn parse(options: &[String]) -> io::Result<Self> {
        let (mut data, mut uids, mut gids) = (Vec::new(), None, None);
        for option in options.iter().filter(|option| !is_flag(option)) {
            if let Some(ids) = option.strip_prefix("uidmap=") {
                uids = Some(range(ids)?);
            } else if let Some(ids) = option.strip_prefix("gidmap=") {
                gids = Some(range(ids)?);
            } else {
                data.push(option.clone());
            }
        }
        match (uids, gids) {
            (Some(_), None) | (None, Some(_)) => Err(unsupported("uidmap and gidmap one without the other".to_owned())),
            both => Ok(Self { data, ids: both.0.zip(both.1) }),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.data.iter().any(|option| option.starts_with(name))
    }

    /// The layers of an overlay, and the index of the option that lists them.
    fn lower(&self) -> Option<(usize, Vec<PathBuf>)> {
        let at = self.data.iter().position(|option| option.starts_with(LOWER))?;
        Some((at, self.data[at][LOWER.len()..].split(':').map(PathBuf::from).collect()))
    }

    /// Joins the options into a string of at most one page. The absolute paths of many layers do not fit, but they do
    /// when the working directory is the directory that the layers share.
    fn shortened(mut self) -> io::Result<String> {
        if let Some((at, layers)) = self.lower()
            && let Some(base) = common_directory(&layers)
        {
            std::env::set_current_dir(&base)?;
            let name = |layer: &PathBuf| layer.strip_prefix(&base).unwrap_or(layer).display().to_string();
            self.data[at] = format!("{LOWER}{}", layers.iter().map(name).collect::<Vec<_>>().join(":"));
        }
        let data = self.data.join(",");
        if data.len() > LONGEST_OPTIONS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more layers than one mount takes"));
        }
        Ok(data)
    }
}

fn is_flag(option: &str) -> bool {
    const FLAGS: [&str; 14] = [
        "ro", "rw", "bind", "rbind", "defaults", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime",
        "relatime", "sync",
    ];
    FLAGS.contains(&option) || option == "async"
}

/// Parses `0:HOST:LENGTH`, the only form that Pontoon requests.
fn range(text: &str) -> io::Result<Range> {
    let numbers: Vec<Option<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [Some(0), Some(host), Some(length)] => Ok(Range { host, length }),
        _ => Err(unsupported(format!("the mapping {text:?} of ids"))),
    }
}

/// The deepest common ancestor of the paths; `None` for a single path, or when it is the root.
fn common_directory(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut base = paths.first()?.parent()?.to_path_buf();
    for path in paths {
        while !path.starts_with(&base) || path == &base {
            base = base.parent()?.to_path_buf();
        }
    }
    (paths.len() > 1 && base.parent().is_some() && paths.iter().all(|path| path.is_absolute())).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_from_the_directory_they_share() {
        let paths = ["/a/b/snapshots/1/fs", "/a/b/snapshots/22/fs"].map(PathBuf::from);
        assert_eq!(common_directory(&paths).unwrap(), Path::new("/a/b/snapshots"));
        assert!(common_directory(&["/a/1", "/b/1"].map(PathBuf::from)).is_none());
        assert!(common_directory(&[PathBuf::from("/a/b/c")]).is_none());
        assert!(common_directory(&["a/1", "a/2"].map(PathBuf::from)).is_none());
    }

    #[test]
    fn a_root_is_a_root() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "in the image").unwrap();
        std::os::unix::fs::symlink("/../../real", dir.path().join("lnk")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("out")).unwrap();
        let source = dir.path().display().to_string();
        let root = MountedRoot::mount(MountSpec { fs_type: "bind".to_owned(), source, options: Vec::new() }).unwrap();
        for path in ["/real/file", "/lnk/file", "/../../lnk/file", "../real/../real/file"] {
            let text = io::read_to_string(root.open_file(Path::new(path)).unwrap()).unwrap();
            assert_eq!(text, "in the image", "{path}");
        }
        root.open_directory(Path::new("/lnk")).unwrap();
        assert_eq!(root.open_file(Path::new("/out")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(root.open_file(Path::new("/lnk")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let here = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!here.contains(&dir.path().display().to_string()), "no mount on the host");
    }

    #[test]
    fn a_sub_directory_is_attached_read_only_and_detached() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(dir.path().join("v1/deep")).unwrap();
        std::fs::write(dir.path().join("v1/deep/file"), "in the image").unwrap();
        for (link, to) in [("latest", "v1"), ("out", ".."), ("root", "/"), ("proc", "/proc/self/root")] {
            std::os::unix::fs::symlink(to, dir.path().join(link)).unwrap();
        }
        let spec =
            || MountSpec { fs_type: "bind".to_owned(), source: dir.path().display().to_string(), options: Vec::new() };
        let attach = |sub: &str| attach(spec(), Path::new(sub), target.path());
        for (sub, file) in [("latest/deep", "file"), ("", "v1/deep/file")] {
            attach(sub).unwrap();
            assert_eq!(std::fs::read_to_string(target.path().join(file)).unwrap(), "in the image");
            let refused = std::fs::write(target.path().join("new"), "x").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
            detach(target.path()).unwrap();
            assert!(!target.path().join(file).exists());
        }
        detach(target.path()).unwrap();
        let refused = |sub: &str| match attach(sub) {
            Err(AttachError::SubPath(error)) => error,
            other => panic!("{sub}: {other:?}"),
        };
        for sub in ["out", "root/etc", "proc", "latest/../../x"] {
            assert_eq!(refused(sub).raw_os_error(), Some(Errno::XDEV.raw_os_error()), "{sub}");
        }
        assert_eq!(refused("latest/deep/file").kind(), io::ErrorKind::NotADirectory);
        assert_eq!(refused("none").kind(), io::ErrorKind::NotFound);
        assert!(std::fs::read_dir(target.path()).unwrap().next().is_none(), "nothing was attached");
    }

    #[test]
    fn flags_are_not_data() {
        let options = ["ro", "lowerdir=/x/1", "index=off", "noatime"].map(ToOwned::to_owned);
        assert_eq!(Options::parse(&options).unwrap().data, ["lowerdir=/x/1", "index=off"]);
    }

    #[test]
    fn ids_are_mapped_as_containerd_writes_it_or_not_at_all() {
        let parse = |options: &[&str]| Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>());
        let ids = parse(&["uidmap=0:70:9", "gidmap=0:80:9", "ro"]).unwrap();
        assert_eq!(ids.ids, Some((Range { host: 70, length: 9 }, Range { host: 80, length: 9 })));
        assert!(ids.data.is_empty());
        for wrong in
            [&["uidmap=0:70:9"][..], &["uidmap=0:70:9,9:90:1", "gidmap=0:8:9"], &["uidmap=1:7:9", "gidmap=0:8:9"]]
        {
            assert_eq!(parse(wrong).err().map(|error| error.kind()), Some(io::ErrorKind::Unsupported), "{wrong:?}");
        }
    }

    /// The owners of the root of a mount, and of `file` in it.
    fn owners(root: &Path) -> Vec<(u32, u32)> {
        use std::os::unix::fs::MetadataExt as _;
        let owner = |path: PathBuf| std::fs::symlink_metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
        vec![owner(root.to_owned()), owner(root.join("file"))]
    }

    #[test]
    fn owners_are_those_of_the_mapping_in_one_layer_and_in_two() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        // Not on a tmpfs, which supports id-mapped mounts only since Linux 6.3.
        let (dir, target) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (dir.path().join("1/fs"), dir.path().join("2/fs"));
        for layer in [&one, &two] {
            std::fs::create_dir_all(layer).unwrap();
        }
        std::fs::write(two.join("file"), "").unwrap();
        std::os::unix::fs::chown(two.join("file"), Some(33), Some(44)).unwrap();
        let ids = ["uidmap=0:70000:65536", "gidmap=0:80000:65536"].map(ToOwned::to_owned).to_vec();
        let bind = MountSpec { fs_type: "bind".to_owned(), source: two.display().to_string(), options: ids.clone() };
        let lower = format!("lowerdir={}:{}", one.display(), two.display());
        let options = ids.into_iter().chain([lower]).collect();
        let overlay = MountSpec { fs_type: "overlay".to_owned(), source: "overlay".to_owned(), options };
        for spec in [bind, overlay] {
            let kind = spec.fs_type.clone();
            attach(spec, Path::new(""), target.path()).unwrap();
            let found = owners(target.path());
            detach(target.path()).unwrap();
            assert_eq!(found, [(70_000, 80_000), (70_033, 80_044)], "{kind}");
        }
        assert_eq!(owners(&two), [(0, 0), (33, 44)], "nothing changed on disk");
    }

    #[test]
    fn a_directory_that_is_mounted_with_a_label_shows_what_it_has() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::write(dir.path().join("file"), "in the image").unwrap();
        std::os::unix::fs::chown(dir.path(), Some(33), Some(44)).unwrap();
        let spec =
            MountSpec { fs_type: "bind".to_owned(), source: dir.path().display().to_string(), options: Vec::new() };
        let seen = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).unwrap();
            // The label itself needs a kernel with SELinux; cgroup2.sh boots one.
            mount_labelled(&spec, Options { data: Vec::new(), ids: None }, MsFlags::MS_RDONLY).unwrap();
            let names = std::fs::read_dir(TARGET).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
            (names, owners(Path::new(TARGET)), std::fs::write(Path::new(TARGET).join("new"), "x").unwrap_err().kind())
        });
        let (names, owners, written) = seen.join().unwrap();
        assert_eq!(names, ["file"]);
        assert_eq!(owners, [(33, 44), (0, 0)]);
        assert_eq!(written, io::ErrorKind::ReadOnlyFilesystem);
    }
}
