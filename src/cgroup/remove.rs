//! Removes what a runtime leaves behind when it is killed in the middle of a create.

use std::path::{Path, PathBuf};

use super::{ROOT, file_system_path};

/// Removes the empty cgroup of an OCI `cgroupsPath`, in every hierarchy. containerd kills `runc create` when its caller
/// is gone, and then has no container whose cgroup could be removed. systemd removes its scopes by itself.
pub fn remove(cgroups_path: &str, unified: bool) {
    // An empty path would be the root cgroup.
    if cgroups_path.contains(':') || cgroups_path.trim_matches('/').is_empty() {
        return;
    }
    for path in paths(cgroups_path, unified) {
        // The cgroup nearly always does not exist. One that still has processes is left alone. Both errors are ignored.
        if std::fs::remove_dir(&path).is_ok() {
            tracing::info!(cgroup = %path.display(), "removed what an interrupted create had left");
        }
    }
}

fn paths(cgroups_path: &str, unified: bool) -> Vec<PathBuf> {
    if unified {
        return vec![file_system_path(cgroups_path, true, "")];
    }
    // runc creates a cgroup in each hierarchy, including systemd's and the unified one of a hybrid. Behind a symlink
    // (cpu -> cpu,cpuacct) the second removal finds nothing.
    let hierarchies = std::fs::read_dir(Path::new(ROOT)).into_iter().flatten().flatten();
    hierarchies.filter_map(|entry| Some(file_system_path(cgroups_path, false, entry.file_name().to_str()?))).collect()
}
