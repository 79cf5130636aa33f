//! Removes what a runtime leaves behind when it is killed in the middle of a create.

use std::fs;
use std::path::Path;

use cgroups_rs::fs::hierarchies::V2;
use cgroups_rs::fs::{Cgroup, Hierarchy};

use super::ROOT;
use super::path::below;

/// Removes the empty cgroup of an OCI `cgroupsPath`, in every hierarchy. containerd kills `runc create` when its caller
/// is gone, and then has no container whose cgroup could be removed. systemd removes its scopes by itself.
pub fn remove(cgroups_path: &str, unified: bool) {
    // An empty path would be the root cgroup.
    if cgroups_path.contains(':') || cgroups_path.trim_matches('/').is_empty() {
        return;
    }
    let cgroup = below(cgroups_path);
    let removed = if unified { remove_v2(Box::new(V2::new()), &cgroup) } else { remove_v1(Path::new(ROOT), &cgroup) };
    if removed {
        tracing::info!(cgroup = cgroups_path, "removed what an interrupted create had left");
    }
}

/// Returns whether there was one. It nearly always does not exist, and one that still has processes is left alone: both
/// errors are ignored.
fn remove_v2(hierarchy: Box<dyn Hierarchy>, cgroup: &Path) -> bool {
    Cgroup::load(hierarchy, cgroup).delete().is_ok()
}

/// Removes the cgroup in each v1 hierarchy. `Cgroup::delete` cannot be used: on v1 it removes the cgroups below one
/// that has processes, sleeps between its attempts, ends at the first error, and does not know the unified hierarchy of
/// a hybrid.
fn remove_v1(root: &Path, cgroup: &Path) -> bool {
    // runc creates a cgroup in each hierarchy, including systemd's and the unified one of a hybrid. Behind a symlink
    // (cpu -> cpu,cpuacct) the second removal finds nothing.
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let mut removed = false;
    for hierarchy in hierarchies {
        removed |= fs::remove_dir(hierarchy.path().join(cgroup)).is_ok();
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cgroups_rs::fs::Subsystem;

    use super::*;

    /// cgroup v2 in a directory of the test.
    #[derive(Debug)]
    struct At(PathBuf);

    impl Hierarchy for At {
        fn subsystems(&self) -> Vec<Subsystem> {
            Vec::new()
        }

        fn root(&self) -> PathBuf {
            self.0.clone()
        }

        fn root_control_group(&self) -> Cgroup {
            Cgroup::load(Box::new(Self(self.0.clone())), "")
        }

        fn parent_control_group(&self, _path: &str) -> Cgroup {
            self.root_control_group()
        }

        fn v2(&self) -> bool {
            true
        }
    }

    #[test]
    fn on_v2_an_empty_cgroup_is_removed_and_one_with_a_cgroup_below_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        for cgroup in ["pod/empty", "pod/c/below"] {
            fs::create_dir_all(root.path().join(cgroup)).unwrap();
        }
        let removed = |path: &str| remove_v2(Box::new(At(root.path().to_owned())), &below(path));
        assert_eq!(["/pod/empty", "/pod/c", "/pod/missing"].map(removed), [true, false, false]);
        assert_eq!(["pod/empty", "pod/c/below"].map(|path| root.path().join(path).exists()), [false, true]);
    }

    #[test]
    fn on_v1_an_empty_cgroup_is_removed_from_every_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        // The first error does not keep the others from being removed: there is a hierarchy without this cgroup, and
        // one where it is not empty.
        for cgroup in ["cpu/pod/c", "cpuset", "memory/pod/c/below", "systemd/pod/c", "unified/pod/c"] {
            fs::create_dir_all(root.path().join(cgroup)).unwrap();
        }
        assert!(remove_v1(root.path(), &below("/pod/c")));
        let left = ["cpu", "memory", "systemd", "unified"].map(|name| root.path().join(name).join("pod/c").exists());
        assert_eq!(left, [false, true, false, false]);
        assert!(!remove_v1(root.path(), &below("/pod/c")));
    }
}
