//! Translates CRI's cgroup_parent to the path that the runtime gets, and to the path in the kernel's file system.

use std::path::PathBuf;

use super::ROOT;

/// Name prefix of the systemd scopes; kubelet's cAdvisor relies on this one.
const SCOPE_PREFIX: &str = "cri-containerd";

/// The `linux.cgroupsPath` of the OCI spec for an id below a cgroup parent. kubelet writes the parent in the form of
/// its own driver: a name of a slice means systemd, whatever runc's configuration says. An empty parent gives `/id`,
/// which runc accepts only with cgroupfs: with systemd it requires `slice:prefix:name` and refuses the container.
/// containerd's own CRI has the same limitation.
#[must_use]
pub fn cgroups_path(parent: &str, id: &str) -> String {
    match slice_of(parent) {
        // runc expands the name of a slice to its path itself, so it gets the last component only.
        Some(slice) => format!("{slice}:{SCOPE_PREFIX}:{id}"),
        None => format!("{}/{id}", parent.trim_end_matches('/')),
    }
}

/// The cgroup of an OCI `cgroupsPath` in the kernel's file system. `controller` selects the v1 hierarchy and is ignored
/// on v2.
#[must_use]
pub fn file_system_path(cgroups_path: &str, unified: bool, controller: &str) -> PathBuf {
    let root = PathBuf::from(ROOT);
    let root = if unified { root } else { root.join(controller) };
    root.join(below(cgroups_path))
}

/// The same path, relative to the root of a hierarchy.
pub(super) fn below(cgroups_path: &str) -> PathBuf {
    let mut parts = cgroups_path.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(id)) => expand(slice).join(format!("{prefix}-{id}.scope")),
        _ => PathBuf::from(cgroups_path.trim_start_matches('/')),
    }
}

/// The path of a CRI cgroup parent, relative to the root of a hierarchy. `None` for the root itself, whose counts are
/// those of the node.
pub(super) fn parent_below(parent: &str) -> Option<PathBuf> {
    let path = match slice_of(parent) {
        Some(slice) => expand(slice),
        None => PathBuf::from(parent.trim_matches('/')),
    };
    (!path.as_os_str().is_empty()).then_some(path)
}

fn slice_of(parent: &str) -> Option<&str> {
    let last = parent.trim_end_matches('/').rsplit('/').next()?;
    last.ends_with(".slice").then_some(last)
}

/// `a-b-c.slice` is in `a.slice/a-b.slice/a-b-c.slice` (systemd.slice(5)).
fn expand(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    if name == "-" {
        return PathBuf::new();
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_drivers_forms_are_understood() {
        assert_eq!(cgroups_path("/kubepods/besteffort/pod1", "c"), "/kubepods/besteffort/pod1/c");
        assert_eq!(cgroups_path("", "c"), "/c");
        let systemd = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
        assert_eq!(cgroups_path(systemd, "c"), "kubepods-besteffort-pod1.slice:cri-containerd:c");
        assert_eq!(cgroups_path("pods.slice", "c"), "pods.slice:cri-containerd:c");
        assert_eq!(cgroups_path("/pods.slice/", "c"), "pods.slice:cri-containerd:c");
        assert_eq!(cgroups_path("/-.slice", "c"), "-.slice:cri-containerd:c");
    }

    #[test]
    fn only_a_last_part_that_is_a_slice_is_systemds() {
        assert_eq!(cgroups_path("/a.slice/pod", "c"), "/a.slice/pod/c");
        assert_eq!(cgroups_path("/a.slice/b.service", "c"), "/a.slice/b.service/c");
        assert_eq!(cgroups_path("/aslice", "c"), "/aslice/c");
        assert_eq!(cgroups_path("/", "c"), "/c");
    }

    #[test]
    fn a_parent_is_where_its_containers_are() {
        assert_eq!(parent_below("/kubepods/burstable/pod1"), Some("kubepods/burstable/pod1".into()));
        let slice = "/kubepods.slice/kubepods-pod1.slice";
        assert_eq!(parent_below(slice), Some("kubepods.slice/kubepods-pod1.slice".into()));
        assert_eq!(parent_below("kubepods-pod1.slice"), parent_below(slice));
        for root in ["", "/", "-.slice"] {
            assert_eq!(parent_below(root), None, "{root:?}");
        }
    }

    #[test]
    fn the_kernel_shows_a_slice_below_its_prefixes() {
        let path = file_system_path("a-b-c.slice:cri-containerd:x", true, "memory");
        assert_eq!(path, PathBuf::from("/sys/fs/cgroup/a.slice/a-b.slice/a-b-c.slice/cri-containerd-x.scope"));
        let path = file_system_path("a-b.slice:cri-containerd:x", false, "memory");
        assert_eq!(path, PathBuf::from("/sys/fs/cgroup/memory/a.slice/a-b.slice/cri-containerd-x.scope"));
        let path = file_system_path("-.slice:cri-containerd:x", true, "memory");
        assert_eq!(path, PathBuf::from("/sys/fs/cgroup/cri-containerd-x.scope"));
        let path = file_system_path("/pods/p/x", false, "memory");
        assert_eq!(path, PathBuf::from("/sys/fs/cgroup/memory/pods/p/x"));
    }
}
