//! File systems that writable layers are on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How large a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Those that are free.
    pub inodes_free: u64,
}

/// Each is asked once for all the containers of a call.
#[derive(Debug, Default)]
pub struct Filesystems(HashMap<PathBuf, Option<Filesystem>>);

impl Filesystems {
    /// The one that has `path`; `None` when it does not say.
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
