//! Whether and when a container was started, stored as a file in the state directory: this must survive the daemon
//! but not a reboot, and a write to containerd's database would cost two fdatasync calls per start. See
//! docs/adr/0003-start-time-in-state.md.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::ContainerId;
use crate::sys::{read, write};

/// What is known about a container's start. Times are in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// A start was about to be requested from containerd at this time. Its outcome was not observed.
    Requested(i64),
    /// The container was started at this time.
    At(i64),
}

/// Maximum size of such a file in bytes.
const MAX_FILE_SIZE: u64 = 64;
/// Follows the time in a file for [`Started::Requested`].
const REQUESTED_SUFFIX: &str = " asked";

impl Started {
    /// The time reported as the container's start.
    #[must_use]
    pub fn at(self) -> i64 {
        match self {
            Self::Requested(at) | Self::At(at) => at,
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file system's error.
    pub fn write(self, state: &Path, id: &ContainerId) -> io::Result<()> {
        let path = path(state, id);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let text = match self {
            Self::Requested(at) => format!("{at}{REQUESTED_SUFFIX}"),
            Self::At(at) => at.to_string(),
        };
        // Overwrites the file in place, so that there is always one, even if the daemon is killed meanwhile.
        write::overwrite(&path, text.as_bytes())
    }

    /// Reads the file. `None` if the container was not started, or not since the last boot.
    #[must_use]
    pub fn read(state: &Path, id: &ContainerId) -> Option<Self> {
        let text = read::text(&path(state, id), MAX_FILE_SIZE).ok()?;
        Some(match text.strip_suffix(REQUESTED_SUFFIX) {
            Some(at) => Self::Requested(at.parse().unwrap_or(0)),
            // A file that was cut short by a kill still shows that a start was requested.
            None => text.parse().map_or(Self::Requested(0), Self::At),
        })
    }
}

fn path(state: &Path, id: &ContainerId) -> PathBuf {
    state.join("started").join(id.as_str())
}

/// Removes the file. It is no error if there is none.
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
        for started in [Started::Requested(5), Started::At(7)] {
            started.write(state.path(), &id).unwrap();
            assert_eq!(Started::read(state.path(), &id), Some(started));
        }
        std::fs::write(path(state.path(), &id), "").unwrap();
        assert_eq!(Started::read(state.path(), &id), Some(Started::Requested(0)));
        remove(state.path(), &id);
        assert_eq!(Started::read(state.path(), &id), None);
    }
}
