//! Copies a directory tree by file descriptors: no path is resolved twice, no symlink is followed, and no device or
//! FIFO is opened.

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

/// Most bytes of paths in memory during a copy: directories that are still to be copied, and files with several names.
const KEPT: usize = 16 << 20;
/// The kernel's limit on a list of extended attribute names, and on the value of one attribute.
const XATTR: usize = 65536;

/// Copies the content of the directory `from` to the directory `to`, and gives `to` the attributes of `from`. Fails if
/// a path is longer than the kernel accepts, or if more than 16 MiB of paths would have to be in memory.
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

/// A copy in progress. It does not recurse, since the author of the tree chooses its depth.
struct CopyTree {
    /// The root directories of source and copy.
    from: OwnedFd,
    to: OwnedFd,
    /// Paths of directories that exist in the copy, but are not filled yet.
    waiting: Vec<CString>,
    /// Path in the copy of each file whose inode has more than one name.
    links: HashMap<(u64, u64), CString>,
    /// How many bytes of paths `waiting` and `links` hold.
    kept: usize,
}

/// One entry: its directories in source and copy, its name in them, and its path in the tree.
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
        // Last, since creating its entries changes the times. Filling its subdirectories later does not.
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
            // A socket is dead without its process, and a device node of an image does not belong in a directory of the
            // host.
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
        // Shares the blocks if the file system can do that; does not preserve holes.
        io::copy(&mut source, &mut target)?;
        like(&source.into(), &target.into(), stat)
    }
}

/// Sets the owner before the mode: changing the owner clears the set-user-id bit.
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

/// Copies user attributes, ACLs and file capabilities. SELinux attributes are left out, since the label is that of the
/// container; `trusted.` attributes too, since overlayfs obeys them.
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
            // tmpfs and other file systems support fewer kinds; a volume without them is better than none.
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
    // Neither part contains a NUL.
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
