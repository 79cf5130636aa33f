//! The walk through a volume, whatever its tenant has created there: no recursion, few open descriptors, no path
//! longer than the kernel allows.
//!
//! Another container may change the volume during the walk. Therefore the walk follows only directory entries, one at
//! a time from an open directory, so that a symlink put in a directory's place does not lead out of the volume. It
//! goes back up through `..`, and only if that is the directory from which it came down.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat};

use super::super::host_paths::{Error, Progress};
use crate::lsm::selinux::{label_of, set_label};

/// How many nested directories are held open. Volumes are rarely deeper. In a deeper one, the upper directories are
/// closed and opened again on the way back.
const MAX_OPEN: usize = 16;
/// The kernel's limit for a path.
const MAX_PATH: usize = 4096;

/// Labels everything below `top`, then `top` itself. Does nothing if `top` already has the label.
pub(super) fn tree(progress: &Progress, top: &Path, label: &str) -> Result<(), Error> {
    let root =
        progress.step("open", top, |path| Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))?;
    let mut walk = Walk { progress, label, current: CurrentPath { path: top.to_owned(), unnamed: 0 } };
    if progress.step("getxattr", top, |_| label_of(&root))?.as_deref() == Some(label) {
        return Ok(());
    }
    let stat = walk.stat(&root, top)?;
    if is_directory(&stat) {
        walk.below(&root, &stat)?;
    }
    walk.set(&root, top)
}

struct Walk<'a> {
    progress: &'a Progress,
    label: &'a str,
    current: CurrentPath,
}

/// The directory being read, for errors and for [`Progress`], which keeps other threads off a path that hangs.
/// Directories deeper than the longest path are only counted.
struct CurrentPath {
    path: PathBuf,
    unnamed: usize,
}

/// A directory that has not been read completely.
struct OpenDirectory {
    entries: Dir,
    read: ReadPosition,
}

/// How far a directory has been read, and the inode by which it is recognized.
#[derive(Clone, Copy)]
struct ReadPosition {
    inode: (u64, u64),
    /// Position of the next entry, as the file system encodes it.
    offset: i64,
}

impl Walk<'_> {
    fn below(&mut self, root: &OwnedFd, stat: &Stat) -> Result<(), Error> {
        let mut closed: Vec<ReadPosition> = Vec::new();
        let mut open = VecDeque::from([self.enter(root, stat)?]);
        while let Some(directory) = open.back_mut() {
            let Some((name, path)) = self.next(directory)? else {
                let Some(done) = open.pop_back() else { return Ok(()) };
                self.current.leave();
                if open.is_empty()
                    && let Some(parent) = closed.pop()
                {
                    open.push_back(self.back(&done, parent)?);
                }
                continue;
            };
            let Some(entry) = self.open(directory, &name, &path)? else { continue };
            self.set(&entry, &path)?;
            let stat = self.stat(&entry, &path)?;
            if !is_directory(&stat) {
                continue;
            }
            if open.len() == MAX_OPEN
                && let Some(highest) = open.pop_front()
            {
                closed.push(highest.read);
            }
            self.current.enter(&name);
            open.push_back(self.enter(&entry, &stat)?);
        }
        Ok(())
    }

    fn enter(&self, directory: &OwnedFd, stat: &Stat) -> Result<OpenDirectory, Error> {
        let read = ReadPosition { inode: inode(stat), offset: 0 };
        let entries = self.progress.step("open", &self.current.path, |_| Ok(Dir::new(readable(directory, c".")?)?))?;
        Ok(OpenDirectory { entries, read })
    }

    /// Opens the parent directory of `below` again, to continue reading it.
    fn back(&self, below: &OpenDirectory, parent: ReadPosition) -> Result<OpenDirectory, Error> {
        let entries = self.progress.step("open", &self.current.path, |_| {
            let directory = readable(below.entries.fd()?, c"..")?;
            if inode(&fstat(&directory)?) != parent.inode {
                return Err(io::Error::other("a directory in it was moved meanwhile"));
            }
            let mut entries = Dir::new(directory)?;
            entries.seek(parent.offset)?;
            Ok(entries)
        })?;
        Ok(OpenDirectory { entries, read: parent })
    }

    /// The next entry's name and path.
    fn next(&self, directory: &mut OpenDirectory) -> Result<Option<(CString, PathBuf)>, Error> {
        let OpenDirectory { entries, read } = directory;
        loop {
            let entry = self.progress.step("getdents", &self.current.path, |_| Ok(entries.read().transpose()?))?;
            let Some(entry) = entry else { return Ok(None) };
            read.offset = entry.offset();
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                return Ok(Some((name.to_owned(), self.current.of(name))));
            }
        }
    }

    /// Opens the entry without following a symlink; `None` if it no longer exists.
    fn open(&self, directory: &OpenDirectory, name: &CStr, path: &Path) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            self.progress.step("open", path, |_| Ok(openat(directory.entries.fd()?, name, flags, Mode::empty())?));
        match opened {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set(&self, file: &OwnedFd, path: &Path) -> Result<(), Error> {
        self.progress.step("setxattr", path, |_| set_label(file, self.label))
    }

    fn stat(&self, file: &OwnedFd, path: &Path) -> Result<Stat, Error> {
        self.progress.step("stat", path, |_| Ok(fstat(file)?))
    }
}

impl CurrentPath {
    fn enter(&mut self, name: &CStr) {
        if self.unnamed > 0 || self.path.as_os_str().len() + name.count_bytes() >= MAX_PATH {
            self.unnamed += 1;
        } else {
            self.path.push(OsStr::from_bytes(name.to_bytes()));
        }
    }

    fn leave(&mut self) {
        if self.unnamed > 0 {
            self.unnamed -= 1;
        } else {
            self.path.pop();
        }
    }

    /// The path of an entry.
    fn of(&self, name: &CStr) -> PathBuf {
        let directory = if self.unnamed > 0 { self.path.join("...") } else { self.path.clone() };
        directory.join(OsStr::from_bytes(name.to_bytes()))
    }
}

fn readable(at: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_moved_away_is_no_way_back() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        std::fs::create_dir_all(path("volume/a/b")).unwrap();
        std::fs::create_dir(path("elsewhere")).unwrap();
        let progress = Progress::default();
        let walk = Walk { progress: &progress, label: "", current: CurrentPath { path: path("volume"), unnamed: 0 } };
        let enter = |name: &str| {
            let directory = openat(CWD, path(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            walk.enter(&directory, &fstat(&directory).unwrap()).unwrap()
        };
        let (a, b) = (enter("volume/a"), enter("volume/a/b"));
        assert!(walk.back(&b, a.read).is_ok());
        std::fs::rename(path("volume/a/b"), path("elsewhere/b")).unwrap();
        let error = walk.back(&b, a.read).map(drop).unwrap_err();
        assert!(matches!(error, Error::Io { operation: "open", .. }), "{error:?}");
    }

    #[test]
    fn a_place_is_named_as_far_as_a_path_goes() {
        let mut place = CurrentPath { path: "/v".into(), unnamed: 0 };
        let name = CString::new("n".repeat(255)).unwrap();
        for _ in 0..20_000 {
            place.enter(&name);
        }
        assert!(place.path.as_os_str().len() <= MAX_PATH && place.of(c"f").ends_with(".../f"));
        for _ in 0..20_000 {
            place.leave();
        }
        assert_eq!(place.of(c"f"), Path::new("/v/f"));
    }
}
