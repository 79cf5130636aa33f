//! SELinux labels of a container's volumes.
//!
//! A volume is relabelled where kubelet asks for it and only then (CVE-2021-43816), and not when its top has the
//! label already. The top is labelled last: one that has it says that all below it has.
//!
//! A volume's content may be another container's to change while we walk: nothing is followed but
//! directory entries, one at a time from the directory that was opened, so no symlink that is put
//! in a directory's place leads out of the volume.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};

use super::host_paths::{self, Error, Progress};
use super::mounts::HostMount;
use crate::lsm::selinux::{label_of, set_label};

/// How long all volumes of a container may take; a big one takes minutes, and a retry of kubelet's joins.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Directories in each other; each is an open file while we are below it.
const DEEPEST: usize = 512;

/// What no volume is: a label of one pod's there would take the node apart. The field's list, with what its
/// symlinks lead to.
const PROTECTED: [&str; 28] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Refuses what may not be relabelled, before anything is.
///
/// # Errors
/// [`Error::Invalid`] names the mount.
pub fn check(mounts: &[HostMount]) -> Result<(), Error> {
    for (index, one) in mounts.iter().enumerate() {
        if one.mount.selinux_relabel && PROTECTED.iter().any(|path| one.source == Path::new(path)) {
            return Err(Error::Invalid {
                field: format!("config.mounts[{index}].selinux_relabel"),
                problem: format!("{} belongs to the node and is not relabelled", one.source.display()),
            });
        }
    }
    Ok(())
}

/// The sources of those mounts that ask for it.
#[must_use]
pub fn wanted(mounts: &[HostMount]) -> Vec<PathBuf> {
    mounts.iter().filter(|one| one.mount.selinux_relabel).map(|one| one.source.clone()).collect()
}

/// Labels trees. Goes on as long as it gets on: only a single call that does not return is given up after a minute.
///
/// # Errors
/// [`Error::Stuck`] and [`Error::Io`] name call and path.
pub async fn trees(paths: Vec<PathBuf>, label: String) -> Result<(), Error> {
    if paths.is_empty() {
        return Ok(());
    }
    let work = move |progress: &Progress| paths.iter().try_for_each(|path| tree(progress, path, &label));
    host_paths::run_on(host_paths::DEADLINE, LONGEST, work).await
}

fn tree(progress: &Progress, top: &Path, label: &str) -> Result<(), Error> {
    let root =
        progress.step("open", top, |path| Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))?;
    let walk = Walk { progress, label };
    if walk.carries(&root, top)? {
        return Ok(());
    }
    if is_directory(progress, &root, top)? {
        walk.below(&root, top)?;
    }
    walk.set(&root, top)
}

struct Walk<'a> {
    progress: &'a Progress,
    label: &'a str,
}

/// A directory that is being read.
struct Open {
    entries: Dir,
    path: PathBuf,
}

impl Walk<'_> {
    fn below(&self, root: &OwnedFd, top: &Path) -> Result<(), Error> {
        let mut open = vec![self.enter(root, top)?];
        while let Some(directory) = open.last_mut() {
            let Some((name, path)) = self.next(directory)? else {
                open.pop();
                continue;
            };
            let Some(entry) = self.open(directory, &name, &path)? else { continue };
            self.set(&entry, &path)?;
            if !is_directory(self.progress, &entry, &path)? {
                continue;
            }
            if open.len() == DEEPEST {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "directories too deep");
                return Err(Error::Io { operation: "relabel", path, source });
            }
            open.push(self.enter(&entry, &path)?);
        }
        Ok(())
    }

    fn enter(&self, directory: &OwnedFd, path: &Path) -> Result<Open, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries =
            self.progress.step("open", path, |_| Ok(Dir::new(openat(directory, ".", flags, Mode::empty())?)?))?;
        Ok(Open { entries, path: path.to_owned() })
    }

    /// The next entry's name and path.
    fn next(&self, directory: &mut Open) -> Result<Option<(CString, PathBuf)>, Error> {
        let Open { entries, path } = directory;
        loop {
            let entry = self.progress.step("getdents", path, |_| Ok(entries.read().transpose()?))?;
            let Some(entry) = entry else { return Ok(None) };
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                let below = path.join(OsStr::from_bytes(name.to_bytes()));
                return Ok(Some((name.to_owned(), below)));
            }
        }
    }

    /// The entry itself, whatever it is; `None` when it is gone.
    fn open(&self, directory: &Open, name: &CStr, path: &Path) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            self.progress.step("open", path, |_| Ok(openat(directory.entries.fd()?, name, flags, Mode::empty())?));
        match opened {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn carries(&self, file: &OwnedFd, path: &Path) -> Result<bool, Error> {
        let label = self.progress.step("getxattr", path, |_| label_of(file))?;
        Ok(label.as_deref() == Some(self.label))
    }

    fn set(&self, file: &OwnedFd, path: &Path) -> Result<(), Error> {
        self.progress.step("setxattr", path, |_| set_label(file, self.label))
    }
}

fn is_directory(progress: &Progress, file: &OwnedFd, path: &Path) -> Result<bool, Error> {
    let stat = progress.step("stat", path, |_| Ok(fstat(file)?))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests;
