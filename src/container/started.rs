//! Whether and when a container was started, as a file in the state directory: it has to survive this
//! process but not a reboot, and a write to containerd's database costs two fdatasync per start.
//! See docs/adr/0003-start-time-in-state.md.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::ContainerId;
use crate::sys::{read, write};

/// What is known of a container's start. Times are in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// containerd was to be asked for it then; what became of that nobody has seen.
    Asked(i64),
    /// It was started then.
    At(i64),
}

/// A file of ours is no longer.
const LONGEST: u64 = 64;
/// What follows the time in a file of [`Started::Asked`].
const ASKED: &str = " asked";

impl Started {
    /// The time that is told for the start's.
    #[must_use]
    pub fn at(self) -> i64 {
        match self {
            Self::Asked(at) | Self::At(at) => at,
        }
    }

    /// Remembers it.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(self, state: &Path, id: &ContainerId) -> io::Result<()> {
        let path = path(state, id);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let text = match self {
            Self::Asked(at) => format!("{at}{ASKED}"),
            Self::At(at) => at.to_string(),
        };
        // In its place: a kill in between must not leave none.
        write::over(&path, text.as_bytes())
    }

    /// What is remembered; `None` when it was not started, or not since the last boot.
    #[must_use]
    pub fn read(state: &Path, id: &ContainerId) -> Option<Self> {
        let text = read::text(&path(state, id), LONGEST).ok()?;
        Some(match text.strip_suffix(ASKED) {
            Some(at) => Self::Asked(at.parse().unwrap_or(0)),
            // A file that a kill has cut short still says that it was to be started.
            None => text.parse().map_or(Self::Asked(0), Self::At),
        })
    }
}

fn path(state: &Path, id: &ContainerId) -> PathBuf {
    state.join("started").join(id.as_str())
}

/// Forgets it; what is not there is forgotten already.
pub fn remove(state: &Path, id: &ContainerId) {
    let _ = std::fs::remove_file(path(state, id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let state = tempfile::tempdir().unwrap();
        let id = ContainerId::random();
        assert_eq!(Started::read(state.path(), &id), None);
        for started in [Started::Asked(5), Started::At(7)] {
            started.write(state.path(), &id).unwrap();
            assert_eq!(Started::read(state.path(), &id), Some(started));
        }
        std::fs::write(path(state.path(), &id), "").unwrap();
        assert_eq!(Started::read(state.path(), &id), Some(Started::Asked(0)));
        remove(state.path(), &id);
        assert_eq!(Started::read(state.path(), &id), None);
    }
}
