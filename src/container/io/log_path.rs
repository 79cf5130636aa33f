//! The path of a container's log, which is opened without leaving its directory.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use tokio::time::timeout_at;

use super::super::host_paths::{self, DEADLINE, Progress};
use super::log_threads::Share;
use super::{Error, Result};
use crate::sys::beneath;

/// kubelet and log collectors in its group read the log. containerd uses the same mode.
const LOG_MODE: u32 = 0o640;
/// Mode of the directory, in case kubelet has not created it. containerd uses the same mode.
const DIRECTORY_MODE: u32 = 0o755;

/// The kernel's PATH_MAX without its zero byte, and the longest name on the usual file systems. Without these checks
/// the container would fail only when it is started, with a less clear error.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPath {
    /// The sandbox's `log_directory`, an absolute path. Its parent belongs to the node and may be behind symlinks.
    /// The directory itself and everything in it may be writable for a tenant who mounts it as a volume, so symlinks
    /// there are not followed.
    pub directory: PathBuf,
    /// The container's `log_path`, relative to the directory.
    pub relative: PathBuf,
}

impl LogPath {
    /// Creates a path from the two fields of CRI. `None` if either is empty, which means that there is no log.
    ///
    /// # Errors
    /// As [`LogPath::check_directory`]; [`Error::LogPath`] if the path is absolute, contains `..` or names no file.
    /// containerd joins the two without these checks.
    pub fn new(log_directory: &str, log_path: &str) -> Result<Option<Self>> {
        if log_directory.is_empty() || log_path.is_empty() {
            return Ok(None);
        }
        let path = Self { directory: log_directory.into(), relative: log_path.into() };
        path.check()?;
        Ok(Some(path))
    }

    /// The whole path, as ContainerStatus reports it.
    #[must_use]
    pub fn full(&self) -> PathBuf {
        self.directory.join(&self.relative)
    }

    /// Checks whether a path may be a sandbox's `log_directory`.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check_directory(path: &Path) -> std::result::Result<(), &'static str> {
        match path.file_name() {
            _ if !path.is_absolute() => Err("is not absolute"),
            _ if path.as_os_str().as_encoded_bytes().contains(&0) => Err("has a zero byte in it"),
            // The root directory, or a path that ends with `..`.
            None => Err("names no directory of its own"),
            Some(_) => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        let fails = |reason| Err(Error::LogPath { path: self.relative.clone(), reason });
        Self::check_directory(&self.directory).map_err(|reason| self.bad_directory(reason))?;
        if self.relative.as_os_str().as_encoded_bytes().contains(&0) {
            return fails("has a zero byte in it");
        }
        if self.relative.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return fails("is a directory");
        }
        if self.full().as_os_str().len() > MAX_PATH {
            return fails("is longer than 4095 bytes including its directory");
        }
        for component in self.relative.components() {
            match component {
                Component::Normal(name) if name.len() > MAX_NAME => {
                    return fails("has a name of more than 255 bytes");
                }
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return fails("has .. in it"),
                Component::RootDir | Component::Prefix(_) => return fails("is absolute"),
            }
        }
        if self.relative.file_name().is_none() { fails("names no file") } else { Ok(()) }
    }

    fn bad_directory(&self, reason: &'static str) -> Error {
        Error::LogDirectory { path: self.directory.clone(), reason }
    }

    /// Opens the log for appending, and creates it and its directories if they do not exist. Blocks.
    pub(super) fn open(&self) -> Result<File> {
        self.check()?;
        let fails = |source: io::Error| match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => Error::LogSymlink(self.full()),
            None if source.kind() == io::ErrorKind::InvalidInput => Error::LogNotRegular(self.full()),
            _ => Error::Log { path: self.full(), source },
        };
        let mode = Mode::from_raw_mode(DIRECTORY_MODE);
        let (Some(parent), Some(name)) = (self.directory.parent(), self.directory.file_name()) else {
            return Err(self.bad_directory("names no directory of its own"));
        };
        std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent).map_err(fails)?;
        let parent = beneath::directory(parent).map_err(fails)?;
        let root = beneath::make_directory(&parent, name, mode).map_err(|error| match error.raw_os_error() {
            Some(code) if Errno::from_raw_os_error(code) == Errno::LOOP => self.bad_directory("is a symlink"),
            _ => fails(error),
        })?;
        if let Some(below) = self.relative.parent() {
            beneath::make_directories(&root, below, mode).map_err(fails)?;
        }
        beneath::append(&root, &self.relative, Mode::from_raw_mode(LOG_MODE)).map_err(fails)
    }

    /// Like [`LogPath::open`], but waits at most for [`DEADLINE`]. A thread that hangs is abandoned and keeps holding
    /// a permit of its pod.
    pub(super) async fn open_in_time(&self, share: &Share) -> Result<File> {
        let stuck = || Error::LogStuck(self.full());
        let until = tokio::time::Instant::now() + DEADLINE;
        let permit = timeout_at(until, share.permit()).await.map_err(|_| stuck())?;
        let path = self.clone();
        let work = move |progress: &Progress| {
            let _permit = permit;
            progress.step("open", &path.full(), |_| Ok(path.open()))
        };
        match host_paths::run(until.saturating_duration_since(tokio::time::Instant::now()), work).await {
            Ok(opened) => opened,
            Err(host_paths::Error::Stuck { .. }) => Err(stuck()),
            Err(host_paths::Error::Io { source, .. }) => Err(Error::Log { path: self.full(), source }),
            Err(error @ host_paths::Error::Invalid { .. }) => {
                Err(Error::Log { path: self.full(), source: io::Error::other(error) })
            }
        }
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.full().display().fmt(f)
    }
}
