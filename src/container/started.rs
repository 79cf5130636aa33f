//! When a container was started, as a file in the state directory: it has to survive this
//! process but not a reboot, and a write to containerd's database costs two fdatasync per start.
//! See docs/adr/0003-start-time-in-state.md.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::ContainerId;

fn path(state: &Path, id: &ContainerId) -> PathBuf {
    state.join("started").join(id.as_str())
}

/// Remembers the start, in nanoseconds since the epoch.
///
/// # Errors
/// The file system's.
pub fn write(state: &Path, id: &ContainerId, at: i64) -> io::Result<()> {
    let path = path(state, id);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, at.to_string())
}

/// When it was started; `None` when it was not, or not since the last boot.
#[must_use]
pub fn read(state: &Path, id: &ContainerId) -> Option<i64> {
    let text = std::fs::read_to_string(path(state, id)).ok()?;
    // A file cut short by a kill still says that it was started.
    Some(text.trim().parse().unwrap_or(0))
}

/// Forgets it; what is not there is forgotten already.
pub fn remove(state: &Path, id: &ContainerId) {
    let _ = std::fs::remove_file(path(state, id));
}
