//! A private, read-only look at a snapshot: its mounts, made in a mount namespace that ends
//! before anybody else could see it, and held by one file descriptor. Closing that unmounts;
//! so does the death of the process. No path on the host ever names it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Where the private namespace mounts; a directory that every Linux node has, and that the
/// mounts of a snapshot are never made from.
const TARGET: &str = "/proc";

/// The kernel takes one page of options.
const LONGEST_OPTIONS: usize = 4095;

/// openat2 gives up on a `..` when anything at all was mounted or renamed meanwhile, anywhere
/// on the node; a node that starts many pods can keep that up for a while.
const RACES: Duration = Duration::from_secs(10);

/// A mount to make, in the words of mount(8).
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// File system type; `bind` and `rbind` are binds.
    pub fs_type: String,
    /// Device, directory, or name.
    pub source: String,
    /// Flags and data.
    pub options: Vec<String>,
}

/// The root of a mounted snapshot.
#[derive(Debug)]
pub struct MountedRoot {
    root: OwnedFd,
    /// Dropped to let the thread go, and with it its mount namespace. The namespace must live
    /// as long as the root: in a mount that has none any more, openat2 answers every `..` with
    /// EAGAIN for ever (seen on Linux 6.18).
    _release: mpsc::Sender<()>,
}

impl MountedRoot {
    /// Mounts a snapshot read-only. Blocks; for `spawn_blocking`.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::Unsupported`] for a snapshotter whose mounts need more
    /// than one mount(2).
    pub fn mount(spec: MountSpec) -> io::Result<Self> {
        // The thread leaves the host's mount namespace for good, so it may not be one of a pool.
        let (mounted, result) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
            if mounted.send(mount_privately(&spec)).is_ok() {
                // Ends with an error when the sender is dropped; nothing is ever sent.
                let _ = released.recv();
            }
        })?;
        let root = result.recv().map_err(|_| io::Error::other("the mounting thread panicked"))??;
        Ok(Self { root, _release: release })
    }

    /// Opens a path as a process whose root this is would, symlinks and `..` included, but
    /// without the links of /proc. It must lead to a regular file.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::InvalidInput`] when it leads to something else.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        // O_PATH first: opening a device or a FIFO runs code of its driver, or waits.
        let found = self.resolve(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&found)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.resolve(path, flags)?;
        let opened = rustix::fs::fstat(&file)?;
        // A committed snapshot does not change; whoever changes it all the same gets an error.
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(io::Error::other("changed while it was opened"));
        }
        Ok(File::from(file))
    }

    /// Opens a directory in the same way.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::NotADirectory`] when it leads to something else.
    pub fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let deadline = Instant::now() + RACES;
        loop {
            match openat2(self.root.as_fd(), relative, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN) if Instant::now() < deadline => rest(),
                other => return Ok(other?),
            }
        }
    }
}

/// Lets whoever mounts get on with it. The thread is one that may block.
fn rest() {
    #[allow(clippy::disallowed_methods, reason = "never on a thread of the runtime, see MountedRoot::mount")]
    std::thread::sleep(Duration::from_micros(200));
}

fn mount_privately(spec: &MountSpec) -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What we mount is not to reach the host, and what the host unmounts need not stay here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    let safe = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Options::parse(&spec.options);
    if matches!(spec.fs_type.as_str(), "bind" | "rbind") {
        mount(Some(spec.source.as_str()), TARGET, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        mount(None::<&str>, TARGET, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | safe, None::<&str>)?;
    } else if spec.fs_type.contains('/') {
        // containerd's mount manager has types such as `format/mkdir/overlay`.
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("mounts of type {}", spec.fs_type)));
    } else {
        let data = options.shortened()?;
        let (source, fs_type) = (spec.source.as_str(), spec.fs_type.as_str());
        mount(Some(source), TARGET, Some(fs_type), safe, Some(data.as_str()))?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(TARGET, flags, Mode::empty())?)
}

/// Options that are data for the file system; flags are ours to choose.
struct Options(Vec<String>);

impl Options {
    fn parse(options: &[String]) -> Self {
        let flag = |option: &str| {
            matches!(
                option,
                "ro" | "rw"
                    | "bind"
                    | "rbind"
                    | "defaults"
                    | "nosuid"
                    | "suid"
                    | "nodev"
                    | "dev"
                    | "noexec"
                    | "exec"
                    | "noatime"
                    | "relatime"
                    | "sync"
                    | "async"
            )
        };
        Self(options.iter().filter(|option| !flag(option)).cloned().collect())
    }

    /// As one string of at most a page: the paths of many layers do not fit as they are, but
    /// do when the directory that they share is the working directory.
    fn shortened(mut self) -> io::Result<String> {
        if let Some(at) = self.0.iter().position(|option| option.starts_with("lowerdir=")) {
            let layers: Vec<PathBuf> = self.0[at]["lowerdir=".len()..].split(':').map(PathBuf::from).collect();
            if let Some(base) = common_directory(&layers) {
                std::env::set_current_dir(&base)?;
                let names: Vec<String> = layers
                    .iter()
                    .map(|layer| layer.strip_prefix(&base).unwrap_or(layer).display().to_string())
                    .collect();
                self.0[at] = format!("lowerdir={}", names.join(":"));
            }
        }
        let data = self.0.join(",");
        if data.len() > LONGEST_OPTIONS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more layers than one mount takes"));
        }
        Ok(data)
    }
}

/// The deepest directory above all of the paths; `None` for one path, or when it is the root.
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
    fn flags_are_not_data() {
        let options = ["ro", "lowerdir=/x/1", "index=off", "noatime"].map(ToOwned::to_owned);
        assert_eq!(Options::parse(&options).0, ["lowerdir=/x/1", "index=off"]);
    }
}
