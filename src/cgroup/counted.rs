//! Which numbers the kernel counts for its cgroups.

use std::fs;
use std::path::Path;

use super::{file_system_path, is_unified};

/// What this host's cgroup files have. It depends on the cgroup version and on how the kernel was built, and does not
/// change until the next boot.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Whether this host uses cgroup v2. If not, it uses v1.
    pub unified: bool,
    /// The keys of memory.stat, as the root cgroup has them. `None` if that cannot be read.
    memory: Option<Vec<String>>,
}

impl Counted {
    #[must_use]
    pub fn by_this_host() -> Self {
        let unified = is_unified();
        Self::by(&file_system_path("/", unified, "memory"), unified)
    }

    fn by(root_cgroup: &Path, unified: bool) -> Self {
        let file = root_cgroup.join("memory.stat");
        let keys = |text: String| text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
        Self { unified, memory: fs::read_to_string(file).ok().map(keys) }
    }

    /// All that this version can count.
    #[cfg(test)]
    pub fn everything(unified: bool) -> Self {
        Self { unified, memory: None }
    }

    /// A kernel that was built without transparent huge pages.
    #[cfg(test)]
    pub fn without_huge_pages(unified: bool) -> Self {
        Self { unified, memory: Some(vec!["anon".to_owned(), "total_rss".to_owned()]) }
    }

    /// Whether memory.stat has this key. A kernel without transparent huge pages, for example, leaves out the keys
    /// about them. If the root cgroup's memory.stat cannot be read, every key is assumed to exist.
    #[must_use]
    pub fn memory(&self, key: &str) -> bool {
        self.memory.as_ref().is_none_or(|keys| keys.iter().any(|one| one == key))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::tree;
    use super::*;

    #[test]
    fn the_root_cgroup_names_what_is_counted() {
        let root = tree(&[("memory.stat", "anon 1\nanon_thp 0\n"), ("memory/memory.stat", "cache 1\ntotal_cache 1\n")]);
        let (v1, v2) = (Counted::by(&root.path().join("memory"), false), Counted::by(root.path(), true));
        assert!(v2.memory("anon_thp") && !v2.memory("file_thp"));
        assert!(v1.memory("total_cache") && !v1.memory("total_rss_huge"));
        assert!(Counted::by(&root.path().join("nothing"), true).memory("file_thp"));
    }
}
