//! Thaws cgroups of containers that are being killed. Frozen processes receive no signal, so cgroups that a container
//! has frozen within its own would keep the whole container from ending.

use std::fs;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::freezer::FreezerController;

use super::{ROOT, file_system_path};

/// Most cgroups that are examined. A container can create any number; the rest is examined after these are gone.
const MOST: usize = 10_000;

/// The frozen cgroups that kept a SIGKILL from taking effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// How many of the container's cgroups were frozen and have been thawed.
    pub thawed: usize,
    /// The nearest ancestor of the container's cgroup that is frozen. It does not belong to the container, so it is
    /// left frozen.
    pub above: Option<PathBuf>,
}

/// Thaws the cgroup of an OCI `cgroupsPath` and all of its descendants (runc does not thaw descendants, runc#2105).
/// Only for a container that has been sent SIGKILL: its thawed processes can do nothing but end. Blocks, and takes
/// longer the more cgroups there are.
#[must_use]
pub fn thaw(cgroups_path: &str, unified: bool) -> Frozen {
    let cgroup = file_system_path(cgroups_path, unified, "freezer");
    // An empty path would be the root cgroup, and so the whole node.
    if cgroups_path.trim_matches('/').is_empty() { Frozen::default() } else { thaw_below(&cgroup, unified) }
}

fn thaw_below(cgroup: &Path, unified: bool) -> Frozen {
    let (mut thawed, mut seen, mut waiting) = (0, 0, vec![cgroup.to_owned()]);
    while let Some(directory) = waiting.pop().filter(|_| seen < MOST) {
        seen += 1;
        if is_frozen(&directory, unified) && thaw_one(&directory, unified) {
            thawed += 1;
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_cgroup = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(below.filter(is_cgroup).map(|entry| entry.path()));
    }
    let above = cgroup.ancestors().skip(1).take_while(|above| *above != Path::new(ROOT));
    let above = above.filter(|above| is_frozen(above, unified)).map(Path::to_owned).next();
    Frozen { thawed, above }
}

/// Whether the cgroup itself was frozen, as opposed to an ancestor (cgroup-v2.rst, "Core Interface Files";
/// freezer-subsystem.rst).
fn is_frozen(cgroup: &Path, unified: bool) -> bool {
    // Not `FreezerController::state`: it reads freezer.state, which is FROZEN (or still FREEZING) also below a frozen
    // cgroup.
    let file = if unified { "cgroup.freeze" } else { "freezer.self_freezing" };
    fs::read_to_string(cgroup.join(file)).is_ok_and(|text| text.trim_end() == "1")
}

fn thaw_one(cgroup: &Path, unified: bool) -> bool {
    match FreezerController::new(cgroup.to_owned(), PathBuf::new(), unified).thaw() {
        Ok(()) => {
            tracing::info!(cgroup = %cgroup.display(), "thawed a frozen cgroup, so that SIGKILL can end its processes");
            true
        }
        Err(error) => {
            tracing::warn!(cgroup = %cgroup.display(), %error, "cannot thaw the frozen cgroup");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::tree;
    use super::*;

    #[test]
    fn r15_what_a_container_froze_below_itself_is_thawed_and_nothing_beside_it() {
        let frozen = [("pod/c/a/b/freezer.self_freezing", "1\n"), ("pod/c/freezer.self_freezing", "1\n")];
        let others = [("pod/c/a/freezer.self_freezing", "0\n"), ("pod/other/freezer.self_freezing", "1\n")];
        let root = tree(&[frozen, others].concat());
        assert_eq!(thaw_below(&root.path().join("pod/c"), false), Frozen { thawed: 2, above: None });
        let written = |name: &str| fs::read_to_string(root.path().join(name).join("freezer.state")).ok();
        let thawed = Some("THAWED".to_owned());
        assert_eq!([written("pod/c"), written("pod/c/a/b")], [thawed.clone(), thawed]);
        assert_eq!([written("pod/c/a"), written("pod/other"), written("pod")], [None, None, None]);
    }

    #[test]
    fn r15_the_same_on_cgroup_v2() {
        let root = tree(&[("pod/c/a/cgroup.freeze", "1\n"), ("pod/c/b/cgroup.freeze", "0\n")]);
        assert_eq!(thaw_below(&root.path().join("pod/c"), true), Frozen { thawed: 1, above: None });
        assert_eq!(fs::read_to_string(root.path().join("pod/c/a/cgroup.freeze")).unwrap(), "0");
    }

    #[test]
    fn r15_a_frozen_cgroup_above_is_reported_and_stays_frozen() {
        let root = tree(&[("pod/freezer.self_freezing", "1\n"), ("pod/c/freezer.self_freezing", "0\n")]);
        let found = thaw_below(&root.path().join("pod/c"), false);
        assert_eq!(found, Frozen { thawed: 0, above: Some(root.path().join("pod")) });
        assert!(!root.path().join("pod/freezer.state").exists());
    }

    #[test]
    fn the_roots_path_is_no_containers() {
        assert_eq!([thaw("", false), thaw("/", true)], [Frozen::default(), Frozen::default()]);
    }
}
