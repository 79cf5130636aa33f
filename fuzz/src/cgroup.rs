//! Replaces `src/cgroup/`: only the parsers of the kernel's files.

#[path = "../../src/cgroup/group.rs"]
mod group;
#[path = "../../src/cgroup/path.rs"]
mod path;
#[path = "../../src/cgroup/usage/mod.rs"]
mod usage;

/// cgroups-rs reads the processes of a cgroup, and is not fuzzed here.
mod processes {
    pub(super) fn processes(_cgroup: &std::path::Path, _unified: bool) -> Vec<u32> {
        Vec::new()
    }
}

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

pub use group::{Buffer, Group, Hierarchies};
use usage::Usage;

pub const ROOT: &str = "/sys/fs/cgroup";

/// The files of a cgroup that Pontoon reads with cgroup v1.
const V1: [&str; 17] = [
    "memory.usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.stat",
    "memory.memsw.limit_in_bytes",
    "cpuacct.usage",
    "cpuacct.stat",
    "cpu.stat",
    "pids.current",
    "pids.max",
    "memory.kmem.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.failcnt",
    "memory.oom_control",
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_serviced_recursive",
    "hugetlb.2MB.usage_in_bytes",
    "hugetlb.2MB.max_usage_in_bytes",
];
/// The files of a cgroup that Pontoon reads with cgroup v2.
const V2: [&str; 15] = [
    "memory.current",
    "memory.max",
    "memory.stat",
    "cpu.stat",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
    "memory.swap.current",
    "memory.swap.max",
    "memory.peak",
    "memory.events",
    "io.stat",
    "pids.current",
    "pids.max",
    "hugetlb.2MB.current",
];

/// The directories of a cgroup, which are created once.
struct Tree {
    root: PathBuf,
    unified: bool,
    files: &'static [&'static str],
    group: Group,
}

impl Tree {
    fn new(unified: bool) -> Self {
        let version = if unified { "v2" } else { "v1" };
        let root = std::env::temp_dir().join(format!("{}-{version}", std::process::id()));
        let group = Hierarchies::at(&root, unified, 64).group("/c");
        Self { root, unified, files: if unified { &V2 } else { &V1 }, group }
    }

    fn path(&self, file: &str) -> PathBuf {
        let controller = file.split('.').next().unwrap_or_default();
        let root = if self.unified { self.root.clone() } else { self.root.join(controller) };
        root.join("c").join(file)
    }

    fn fill(&self, texts: &[&[u8]]) {
        for (at, file) in self.files.iter().enumerate() {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a scratch directory");
            fs::write(path, texts[at % texts.len()]).expect("a scratch file");
        }
    }
}

thread_local! {
    static TREES: [RefCell<Tree>; 2] = [false, true].map(|unified| RefCell::new(Tree::new(unified)));
}

/// Parses the contents of a cgroup's files, which are separated by zero bytes. The first byte chooses the cgroup
/// version.
///
/// # Panics
/// If "no limit" becomes a number, or a share is larger than the whole.
pub fn files(input: &[u8]) {
    let Some((version, texts)) = input.split_first() else { return };
    TREES.with(|trees| {
        let tree = &mut *trees[usize::from(version & 1)].borrow_mut();
        tree.fill(&crate::pieces(texts, V1.len()));
        let mut buffer = Buffer::default();
        check(&tree.group.usage(&mut buffer));
        let details = tree.group.details(&mut buffer);
        let devices: Vec<_> = details.devices.iter().map(|device| (device.major, device.minor)).collect();
        assert!(tree.unified || devices.iter().enumerate().all(|(at, device)| !devices[..at].contains(device)));
        let _ = tree.group.cpu_nanoseconds(&mut buffer);
    });
}

fn check(usage: &Usage) {
    let limits = [usage.memory.as_ref().and_then(|memory| memory.limit), usage.swap.and_then(|swap| swap.limit)];
    assert!(limits.into_iter().flatten().all(|limit| limit <= 1 << 62), "no limit is a number");
    if let Some(memory) = &usage.memory {
        assert!(memory.working_set() <= memory.usage);
    }
}
