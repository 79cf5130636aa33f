//! The file systems of writable layers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The size of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// The total size in bytes.
    pub bytes: u64,
    /// The total number of inodes.
    pub inodes: u64,
    pub inodes_free: u64,
}

/// A cache for one call, so that statvfs runs once per path and not once per container.
#[derive(Debug, Default)]
pub struct Filesystems(HashMap<PathBuf, Option<Filesystem>>);

impl Filesystems {
    /// The file system that contains `path`; `None` when statvfs fails.
    pub fn of(&mut self, path: &Path) -> Option<Filesystem> {
        if let Some(known) = self.0.get(path) {
            return *known;
        }
        let told = rustix::fs::statvfs(path).ok();
        let found = told.map(|told| Filesystem {
            bytes: told.f_blocks.saturating_mul(told.f_frsize),
            inodes: told.f_files,
            inodes_free: told.f_ffree,
        });
        self.0.insert(path.to_owned(), found);
        found
    }
}
