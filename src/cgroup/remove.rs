//! What a runtime that was killed in the middle of a create leaves.

use std::path::{Path, PathBuf};

use super::{ROOT, file_system_path};

/// Removes the empty cgroup of an OCI `cgroupsPath`, in every hierarchy. containerd kills a `runc create` whose caller
/// went, and then knows of no container whose cgroup could be removed. A scope of systemd's is removed by systemd.
pub fn remove(cgroups_path: &str, unified: bool) {
    // An empty path would be the root's.
    if cgroups_path.contains(':') || cgroups_path.trim_matches('/').is_empty() {
        return;
    }
    for path in paths(cgroups_path, unified) {
        // Not there, as nearly always, or with processes in it: neither is ours to judge.
        if std::fs::remove_dir(&path).is_ok() {
            tracing::info!(cgroup = %path.display(), "removed what an interrupted create had left");
        }
    }
}

fn paths(cgroups_path: &str, unified: bool) -> Vec<PathBuf> {
    if unified {
        return vec![file_system_path(cgroups_path, true, "")];
    }
    // runc makes one in each, also in systemd's and in a hybrid's unified one; a link (cpu -> cpu,cpuacct) finds nothing twice.
    let hierarchies = std::fs::read_dir(Path::new(ROOT)).into_iter().flatten().flatten();
    hierarchies.filter_map(|entry| Some(file_system_path(cgroups_path, false, entry.file_name().to_str()?))).collect()
}
