//! The processes in a cgroup.

use std::io;
use std::path::Path;

/// The ids of the processes in a cgroup and its descendants.
///
/// # Errors
/// The cgroup itself cannot be read. Errors of its descendants are ignored, because they may be removed at any time.
pub(super) fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let (mut found, mut waiting) = (Vec::new(), vec![cgroup.to_owned()]);
    while let Some(directory) = waiting.pop() {
        let pids = std::fs::read_to_string(directory.join("cgroup.procs"));
        // A container may have created this cgroup, and may remove it at any time.
        let pids = if directory == cgroup { pids? } else { pids.unwrap_or_default() };
        found.extend(pids.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        let below = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_cgroup = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(below.filter(is_cgroup).map(|entry| entry.path()));
    }
    Ok(found)
}
