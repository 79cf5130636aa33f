//! A directory tree copied by descriptors: no path is resolved twice, no symlink followed, no
//! device or FIFO opened.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat, utimensat,
};

use crate::sys::beneath;

/// What is kept of a tree while it is copied, in bytes of paths: directories that are still to be copied, and files with
/// more names than one.
const KEPT: usize = 16 << 20;
/// Largest list of names and largest value of extended attributes, of the kernel.
const XATTR: usize = 65536;

/// Copies what is in `from` into the directory `to`, and makes `to` like `from`. A path in it that is longer than the kernel
/// takes is an error, as is a tree of which more than 16 MiB would have to be kept in mind.
pub(super) fn copy_directory(from: OwnedFd, to: &Path) -> io::Result<()> {
    let to = openat(CWD, to, DIRECTORY, Mode::empty())?;
    let mut tree = CopyTree { from, to, waiting: Vec::new(), links: HashMap::new(), kept: 0 };
    tree.directory(CString::default())?;
    while let Some(path) = tree.waiting.pop() {
        tree.kept -= path.count_bytes();
        tree.directory(path)?;
    }
    Ok(())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A tree on its way; no recursion, since its depth is up to whoever made it.
struct CopyTree {
    /// The roots of both sides.
    from: OwnedFd,
    to: OwnedFd,
    /// Paths of directories that are made in the copy, and are to be filled.
    waiting: Vec<CString>,
    /// Where in the copy the file of an inode with more than one name went.
    links: HashMap<(u64, u64), CString>,
    /// How many bytes of paths the two hold.
    kept: usize,
}

/// One entry: the directories on both sides, its name in them, and its path in the tree.
#[derive(Clone, Copy)]
struct Place<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    name: &'a CStr,
    path: &'a CStr,
}

impl CopyTree {
    fn directory(&mut self, path: CString) -> io::Result<()> {
        let below = |root: &OwnedFd| match path.is_empty() {
            true => root.try_clone(),
            false => beneath::open(root, Path::new(OsStr::from_bytes(path.as_bytes())), DIRECTORY, Mode::empty()),
        };
        let (from, to) = (below(&self.from)?, below(&self.to)?);
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.entry(Place { from: &from, to: &to, name, path: &join(&path, name) })?;
            }
        }
        // Last: making its entries would have changed the times. Filling its directories does not.
        like(&from, &to, &fstat(&from)?)
    }

    fn entry(&mut self, place: Place<'_>) -> io::Result<()> {
        let Place { from, to, name, path } = place;
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let path = self.keep(path)?;
                self.waiting.push(path);
                Ok(())
            }
            FileType::RegularFile => self.file(place, &stat),
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
                owned_like(to, name, &stat)
            }
            FileType::Fifo => {
                mknodat(to, name, FileType::Fifo, Mode::RUSR, 0)?;
                owned_like(to, name, &stat)?;
                Ok(chmodat(to, name, mode(&stat), AtFlags::empty())?)
            }
            // A socket is dead without its process, and a device node from an image has no
            // place in a directory of the host.
            FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Ok(()),
        }
    }

    fn keep(&mut self, path: &CStr) -> io::Result<CString> {
        self.kept += path.count_bytes();
        if self.kept > KEPT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many directories or files with two names"));
        }
        Ok(path.to_owned())
    }

    fn file(&mut self, place: Place<'_>, stat: &Stat) -> io::Result<()> {
        let Place { from, to, name, path } = place;
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&inode) {
                return Ok(linkat(&self.to, first.as_c_str(), to, name, AtFlags::empty())?);
            }
            let path = self.keep(path)?;
            self.links.insert(inode, path);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        let (mut source, mut target) = (File::from(source), File::from(target));
        // Shares the blocks where the file system can, and keeps no hole.
        io::copy(&mut source, &mut target)?;
        like(&source.into(), &target.into(), stat)
    }
}

/// Owner before mode: changing the owner takes the set-user-id bit away.
fn like(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, mode(stat))?;
    xattrs(from.as_fd(), to.as_fd())?;
    Ok(futimens(to, &times(stat))?)
}

fn owned_like(to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
    Timestamps { last_access: modified, last_modification: modified }
}

/// User attributes, ACLs and file capabilities. Not SELinux's: the label is the container's.
/// Not `trusted.`: overlayfs reads orders in those.
fn xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0_u8; XATTR];
    let length = match flistxattr(&from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let bytes = name.to_bytes();
        let wanted =
            bytes.starts_with(b"user.") || bytes == b"security.capability" || bytes.starts_with(b"system.posix_acl_");
        if !wanted {
            continue;
        }
        let mut value = vec![0_u8; XATTR];
        let length = fgetxattr(&from, name, value.as_mut_slice())?;
        match fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            // tmpfs and others have fewer kinds; a volume without them is better than none.
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn join(path: &CStr, name: &CStr) -> CString {
    let mut joined = path.to_bytes().to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.to_bytes());
    // Neither part has a NUL in it.
    CString::new(joined).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_comes_over_as_it_is_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir_all(from.join("d/e")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("d/e/f"), "content").unwrap();
        std::fs::set_permissions(from.join("d/e/f"), PermissionsExt::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o1777)).unwrap();
        std::fs::hard_link(from.join("d/e/f"), from.join("g")).unwrap();
        symlink("/etc/shadow", from.join("link")).unwrap();
        rustix::fs::mkfifoat(CWD, from.join("fifo"), Mode::RUSR).unwrap();
        let source: OwnedFd = File::open(&from).unwrap().into();
        copy_directory(source, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("d/e/f")).unwrap(), "content");
        assert_eq!(std::fs::metadata(to.join("d/e/f")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        let inode = |path: &str| std::fs::metadata(to.join(path)).unwrap().ino();
        assert_eq!(inode("g"), inode("d/e/f"), "a hard link stays one");
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc/shadow"));
        assert!(std::fs::symlink_metadata(to.join("fifo")).is_ok());
        let times = |path: &Path| std::fs::metadata(path).unwrap().mtime();
        assert_eq!(times(&from.join("d")), times(&to.join("d")));
    }

    #[test]
    fn a_tree_as_deep_as_a_path_can_be_comes_over_on_a_small_stack() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 1900).collect();
        std::fs::create_dir_all(from.join(&deep)).unwrap();
        std::fs::write(from.join(&deep).join("f"), "content").unwrap();
        std::fs::create_dir(&to).unwrap();
        let (source, target) = (OwnedFd::from(File::open(&from).unwrap()), to.clone());
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread.spawn(move || copy_directory(source, &target)).unwrap().join().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(to.join(&deep).join("f")).unwrap(), "content");
    }

    #[test]
    fn a_tree_that_does_not_fit_in_mind_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir_all(from.join("d")).unwrap();
        std::fs::create_dir(&to).unwrap();
        let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
        let mut tree =
            CopyTree { from: open(&from), to: open(&to), waiting: Vec::new(), links: HashMap::new(), kept: KEPT };
        assert_eq!(tree.directory(CString::default()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
