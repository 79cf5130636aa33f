//! Opens files below a directory without ever leaving it: openat2(2).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::read::only_regular;

/// How often to retry when the kernel reports that the tree changed during the walk.
const TRIES: usize = 16;

/// Opens a directory by a trusted absolute path. Symlinks are followed.
///
/// # Errors
/// The error of open(2).
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `relative` below `root`, close-on-exec. Neither `..` beyond `root` nor a symlink in any component is followed.
///
/// # Errors
/// `ELOOP` for a symlink, `EXDEV` for a path that leaves `root`, else the error of openat2(2).
pub fn open(root: impl AsFd, relative: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = TRIES;
    loop {
        match rustix::fs::openat2(root.as_fd(), relative, flags | OFlags::CLOEXEC, mode, resolve) {
            // A rename raced with the walk, and the kernel could not prove that the walk stayed below `root`.
            Err(Errno::AGAIN | Errno::INTR) if tries > 0 => tries -= 1,
            other => return Ok(other?),
        }
    }
}

/// Creates every missing directory of `relative` below `root`.
///
/// # Errors
/// As [`open`], and the errors of mkdir(2).
pub fn make_directories(root: impl AsFd, relative: &Path, mode: Mode) -> io::Result<()> {
    let mut parent: Option<OwnedFd> = None;
    for name in relative.components() {
        let at = parent.as_ref().map_or_else(|| root.as_fd(), AsFd::as_fd);
        parent = Some(make_directory(at, name.as_os_str(), mode)?);
    }
    Ok(())
}

/// Opens the directory `name` in `parent`, and creates it if it is missing.
///
/// # Errors
/// As [`make_directories`].
pub fn make_directory(parent: impl AsFd, name: &OsStr, mode: Mode) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent.as_fd(), name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open(parent, Path::new(name), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a regular file below `root` for appending, and creates it with `mode` if it is missing. A device or FIFO in
/// its place is refused without waiting for it.
///
/// # Errors
/// As [`open`]; `InvalidInput` when it is not a regular file.
pub fn append(root: impl AsFd, relative: &Path, mode: Mode) -> io::Result<File> {
    // NONBLOCK: a FIFO without a reader gives ENXIO instead of blocking us.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    only_regular(open(root, relative, flags, mode).map(File::from))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode() -> Mode {
        Mode::from_raw_mode(0o640)
    }

    #[test]
    fn no_path_leaves_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        symlink(outer.path(), inner.join("up")).unwrap();
        let root = directory(&inner).unwrap();
        for path in ["../x", "/etc/x", "up/x"] {
            assert!(append(&root, Path::new(path), mode()).is_err(), "{path}");
        }
        assert!(!outer.path().join("x").exists());
        assert!(make_directories(&root, Path::new("up/made"), mode()).is_err());
        assert!(!outer.path().join("made").exists());
    }

    #[test]
    fn only_a_regular_file_is_appended_to() {
        let directory_path = tempfile::tempdir().unwrap();
        let root = directory(directory_path.path()).unwrap();
        crate::sys::fifo::make(&directory_path.path().join("fifo")).unwrap();
        std::fs::create_dir(directory_path.path().join("dir")).unwrap();
        assert_eq!(append(&root, Path::new("fifo"), mode()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(append(&root, Path::new("dir"), mode()).is_err());
        // A FIFO with a reader can be opened, and must be refused all the same.
        let _reader = crate::sys::fifo::open(&directory_path.path().join("fifo"), crate::sys::fifo::End::Read).unwrap();
        assert_eq!(append(&root, Path::new("fifo"), mode()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn directories_are_made_once_and_again() {
        let directory_path = tempfile::tempdir().unwrap();
        let root = directory(directory_path.path()).unwrap();
        for _ in 0..2 {
            make_directories(&root, Path::new("a/b/c"), Mode::from_raw_mode(0o755)).unwrap();
        }
        append(&root, Path::new("a/b/c/log"), mode()).unwrap();
        assert!(directory_path.path().join("a/b/c/log").is_file());
    }
}
