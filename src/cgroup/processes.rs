//! The processes in a cgroup.

use std::path::{Path, PathBuf};

use cgroups_rs::fs::Controller as _;
use cgroups_rs::fs::memory::MemController;

/// The ids of the processes in a cgroup and its descendants. A cgroup that cannot be read has none: a container may
/// have created it, and may remove it at any time.
pub(super) fn processes(cgroup: &Path, unified: bool) -> Vec<u32> {
    let (mut found, mut waiting) = (Vec::new(), vec![cgroup.to_owned()]);
    while let Some(directory) = waiting.pop() {
        let below = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_cgroup = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(below.filter(is_cgroup).map(|entry| entry.path()));
        let pids = MemController::new(directory, PathBuf::new(), unified).procs();
        found.extend(pids.into_iter().filter_map(|process| u32::try_from(process.pid).ok()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fixture::tree;
    use super::*;

    #[test]
    fn processes_of_descendants_are_found_and_a_missing_cgroup_has_none() {
        let root = tree(&[
            ("c/cgroup.procs", "7\n8\n"),
            ("c/a/cgroup.procs", ""),
            ("c/a/b/cgroup.procs", "9\n"),
            ("other/cgroup.procs", "10\n"),
        ]);
        for unified in [false, true] {
            let mut found = processes(&root.path().join("c"), unified);
            found.sort_unstable();
            assert_eq!(found, [7, 8, 9]);
            assert_eq!(processes(&root.path().join("missing"), unified), Vec::<u32>::new());
        }
    }
}
