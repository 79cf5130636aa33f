//! Frozen processes take no signal: what a container froze in cgroups of its own keeps all of it from ending.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ROOT, file_system_path};

/// Cgroups that are looked at. A container can make any number, and the rest is looked at when these have gone.
const MOST: usize = 10_000;

/// What stood in a SIGKILL's way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// Cgroups of the container that were frozen, and are thawed.
    pub thawed: usize,
    /// The nearest cgroup above it that is frozen. It is not the container's, so it is left as it is.
    pub above: Option<PathBuf>,
}

/// Thaws the cgroup of an OCI `cgroupsPath` and all below it (runc thaws none below, runc#2105). To be called for a container
/// that has been sent SIGKILL: what is thawed does nothing any more but end. Blocks as long as its files are many.
#[must_use]
pub fn thaw(cgroups_path: &str, unified: bool) -> Frozen {
    let cgroup = file_system_path(cgroups_path, unified, "freezer");
    // An empty path would be the root's, and so the node's.
    if cgroups_path.trim_matches('/').is_empty() {
        Frozen::default()
    } else {
        thaw_below(&cgroup, &Freezer::new(unified))
    }
}

/// The files of one version of cgroups.
struct Freezer {
    /// Says whether a cgroup was frozen itself, and not one above it.
    state: &'static str,
    /// What the file has when it was.
    frozen: &'static str,
    /// What is written, and into which file.
    thaw: (&'static str, &'static str),
}

impl Freezer {
    fn new(unified: bool) -> Self {
        if unified {
            // cgroup-v2.rst, "Core Interface Files".
            return Self { state: "cgroup.freeze", frozen: "1", thaw: ("cgroup.freeze", "0") };
        }
        // freezer-subsystem.rst. freezer.state is FROZEN, or still FREEZING, for those below a frozen one too.
        Self { state: "freezer.self_freezing", frozen: "1", thaw: ("freezer.state", "THAWED") }
    }

    fn is_frozen(&self, cgroup: &Path) -> bool {
        fs::read_to_string(cgroup.join(self.state)).is_ok_and(|text| text.trim_end() == self.frozen)
    }

    fn thaw(&self, cgroup: &Path) -> bool {
        let (file, text) = self.thaw;
        match fs::write(cgroup.join(file), text) {
            Ok(()) => {
                tracing::info!(cgroup = %cgroup.display(), "thawed, so that a SIGKILL ends its processes");
                true
            }
            Err(error) => {
                tracing::warn!(cgroup = %cgroup.display(), %error, "it is frozen and cannot be thawed");
                false
            }
        }
    }
}

fn thaw_below(cgroup: &Path, freezer: &Freezer) -> Frozen {
    let (mut thawed, mut seen, mut waiting) = (0, 0, vec![cgroup.to_owned()]);
    while let Some(directory) = waiting.pop().filter(|_| seen < MOST) {
        seen += 1;
        if freezer.is_frozen(&directory) && freezer.thaw(&directory) {
            thawed += 1;
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_cgroup = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(below.filter(is_cgroup).map(|entry| entry.path()));
    }
    let above = cgroup.ancestors().skip(1).take_while(|above| *above != Path::new(ROOT));
    let above = above.filter(|above| freezer.is_frozen(above)).map(Path::to_owned).next();
    Frozen { thawed, above }
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
        assert_eq!(thaw_below(&root.path().join("pod/c"), &Freezer::new(false)), Frozen { thawed: 2, above: None });
        let written = |name: &str| fs::read_to_string(root.path().join(name).join("freezer.state")).ok();
        let thawed = Some("THAWED".to_owned());
        assert_eq!([written("pod/c"), written("pod/c/a/b")], [thawed.clone(), thawed]);
        assert_eq!([written("pod/c/a"), written("pod/other"), written("pod")], [None, None, None]);
    }

    #[test]
    fn r15_the_same_on_cgroup_v2() {
        let root = tree(&[("pod/c/a/cgroup.freeze", "1\n"), ("pod/c/b/cgroup.freeze", "0\n")]);
        assert_eq!(thaw_below(&root.path().join("pod/c"), &Freezer::new(true)), Frozen { thawed: 1, above: None });
        assert_eq!(fs::read_to_string(root.path().join("pod/c/a/cgroup.freeze")).unwrap(), "0");
    }

    #[test]
    fn r15_one_above_is_told_of_and_stays_frozen() {
        let root = tree(&[("pod/freezer.self_freezing", "1\n"), ("pod/c/freezer.self_freezing", "0\n")]);
        let found = thaw_below(&root.path().join("pod/c"), &Freezer::new(false));
        assert_eq!(found, Frozen { thawed: 0, above: Some(root.path().join("pod")) });
        assert!(!root.path().join("pod/freezer.state").exists());
    }

    #[test]
    fn the_roots_path_is_no_containers() {
        assert_eq!([thaw("", false), thaw("/", true)], [Frozen::default(), Frozen::default()]);
    }
}
