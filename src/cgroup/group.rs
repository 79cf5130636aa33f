//! The files of one cgroup, opened once and read repeatedly.
//!
//! A read of a cgroup file at offset 0 returns the kernel's current counts (kernfs generates the text for each read),
//! so an open descriptor saves the path walk and the open. Each costs about 5 KiB of kernel memory. As many are held
//! open as a node with 110 pods needs; files beyond that are opened for each read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

use super::{ROOT, path, processes};

/// Most descriptors that are held open for all cgroups together.
const MOST: usize = 4096;
/// No file that a stats call reads is larger on any kernel seen so far; for a larger one the buffer grows.
const USUAL_SIZE: usize = 16 << 10;

/// The root of the cgroup file systems, and how many of their files may be held open.
#[derive(Debug)]
pub struct Hierarchies {
    root: PathBuf,
    unified: bool,
    most: usize,
    open: AtomicUsize,
}

/// One cgroup, in all hierarchies that contain it.
#[derive(Debug)]
pub struct Group {
    hierarchies: Arc<Hierarchies>,
    below: PathBuf,
    kept: Vec<(&'static str, File)>,
}

/// A buffer for reading files, reused from one file to the next.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Hierarchies {
    /// The hierarchies of this host.
    #[must_use]
    pub fn of_host(unified: bool) -> Arc<Self> {
        // The streams, sockets and execs of containers need descriptors more than this module does.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(limit / 4).unwrap_or(MOST).min(MOST);
        Self::at(Path::new(ROOT), unified, most)
    }

    pub(crate) fn at(root: &Path, unified: bool, most: usize) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), unified, most, open: AtomicUsize::new(0) })
    }

    /// The cgroup of an OCI `cgroupsPath`.
    #[must_use]
    pub fn group(self: &Arc<Self>, cgroups_path: &str) -> Group {
        Group { hierarchies: Arc::clone(self), below: path::below(cgroups_path), kept: Vec::new() }
    }

    /// The cgroup of CRI's `cgroup_parent`, which is the pod's. `None` for the root cgroup, which is the node's.
    #[must_use]
    pub fn parent(self: &Arc<Self>, cgroup_parent: &str) -> Option<Group> {
        let below = path::parent_below(cgroup_parent)?;
        Some(Group { hierarchies: Arc::clone(self), below, kept: Vec::new() })
    }

    /// How many files are held open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn reserve_descriptor(&self) -> bool {
        let more = |open| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Group {
    /// Whether this is cgroup v2.
    pub(super) fn is_unified(&self) -> bool {
        self.hierarchies.unified
    }

    /// Reads a file and holds its descriptor open. `None` when the cgroup or the file does not exist.
    pub(super) fn read<'b>(&mut self, name: &'static str, buffer: &'b mut Buffer) -> Option<&'b str> {
        if let Some(at) = self.kept.iter().position(|(kept, _)| *kept == name) {
            match buffer.fill(&self.kept[at].1) {
                Ok(length) => return buffer.text(length),
                // ENODEV: this cgroup was removed. A new cgroup with the same name may exist.
                Err(_) => self.forget(at),
            }
        }
        let file = File::open(self.path_of(name)).ok()?;
        let length = buffer.fill(&file).ok()?;
        if self.hierarchies.reserve_descriptor() {
            self.kept.push((name, file));
        }
        buffer.text(length)
    }

    /// Reads a file that is needed rarely, without holding it open.
    pub(super) fn read_once<'b>(&self, name: &str, buffer: &'b mut Buffer) -> Option<&'b str> {
        let file = File::open(self.path_of(name)).ok()?;
        let length = buffer.fill(&file).ok()?;
        buffer.text(length)
    }

    /// The ids of the processes in this cgroup and its descendants; none when the cgroup does not exist.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut cgroup = self.path_of("memory.stat");
        cgroup.pop();
        processes::processes(&cgroup, self.is_unified())
    }

    /// The names of a controller's files.
    pub(super) fn files(&self, controller: &str) -> Vec<String> {
        let directory = self.path_of(controller);
        let entries = directory.parent().and_then(|directory| std::fs::read_dir(directory).ok());
        let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.split('.').next() == Some(controller)).collect()
    }

    fn path_of(&self, name: &str) -> PathBuf {
        let root = &self.hierarchies.root;
        // On v1 the name of a file begins with the name of its hierarchy.
        let controller = name.split('.').next().unwrap_or_default();
        let mut path = if self.hierarchies.unified { root.clone() } else { root.join(controller) };
        path.push(&self.below);
        path.push(name);
        path
    }

    fn forget(&mut self, at: usize) {
        self.kept.swap_remove(at);
        self.hierarchies.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.hierarchies.open.fetch_sub(self.kept.len(), Ordering::Relaxed);
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; USUAL_SIZE])
    }
}

impl Buffer {
    /// Reads a file from its start. Returns its length.
    fn fill(&mut self, file: &File) -> io::Result<usize> {
        let mut length = 0;
        loop {
            let read = file.read_at(&mut self.0[length..], u64::try_from(length).unwrap_or(u64::MAX))?;
            length += read;
            // kernfs fills the buffer if it can: a shorter read means the end of the file. Another read to confirm that
            // would generate the text again.
            if length < self.0.len() {
                return Ok(length);
            }
            self.0.resize(2 * length, 0);
        }
    }

    fn text(&self, length: usize) -> Option<&str> {
        std::str::from_utf8(&self.0[..length]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::tree;
    use super::*;

    #[test]
    fn a_kept_file_says_what_is_so_now() {
        let root = tree(&[("memory/pods/c/memory.usage_in_bytes", "1\n")]);
        let hierarchies = Hierarchies::at(root.path(), false, 8);
        let (mut group, mut buffer) = (hierarchies.group("/pods/c"), Buffer::default());
        assert_eq!(group.read("memory.usage_in_bytes", &mut buffer), Some("1\n"));
        std::fs::write(root.path().join("memory/pods/c/memory.usage_in_bytes"), "2\n").unwrap();
        assert_eq!(group.read("memory.usage_in_bytes", &mut buffer), Some("2\n"));
        assert_eq!(hierarchies.open(), 1);
        drop(group);
        assert_eq!(hierarchies.open(), 0);
    }

    #[test]
    fn what_is_not_kept_is_read_all_the_same() {
        let root = tree(&[("p/c/cpu.stat", "a 1\n"), ("p/c/memory.stat", "b 2\n"), ("p/c/io.stat", "c 3\n")]);
        let hierarchies = Hierarchies::at(root.path(), true, 1);
        let (mut group, mut buffer) = (hierarchies.group("/p/c"), Buffer::default());
        for _ in 0..2 {
            assert_eq!(group.read("cpu.stat", &mut buffer), Some("a 1\n"));
            assert_eq!(group.read("memory.stat", &mut buffer), Some("b 2\n"));
            assert_eq!(group.read_once("io.stat", &mut buffer), Some("c 3\n"));
            assert_eq!(group.read("pids.current", &mut buffer), None);
        }
        assert_eq!(hierarchies.open(), 1);
    }

    #[test]
    fn a_file_of_any_length_is_read_whole() {
        let long = "x".repeat(5 * USUAL_SIZE);
        let root = tree(&[("p/io.stat", &long)]);
        let hierarchies = Hierarchies::at(root.path(), true, 1);
        let mut buffer = Buffer::default();
        let mut group = hierarchies.parent("/p").unwrap();
        assert_eq!(group.read("io.stat", &mut buffer).map(str::len), Some(long.len()));
        assert!(hierarchies.parent("/").is_none());
    }

    #[test]
    fn a_cgroup_that_was_made_anew_is_found() {
        let root = tree(&[("p/pids.current", "7\n")]);
        let hierarchies = Hierarchies::at(root.path(), true, 8);
        let (mut group, mut buffer) = (hierarchies.group("/p"), Buffer::default());
        assert!(group.read("pids.current", &mut buffer).is_some());
        // A descriptor of a directory: reads fail, as they do on a file of a removed cgroup.
        group.kept[0].1 = File::open(root.path()).unwrap();
        assert_eq!(group.read("pids.current", &mut buffer), Some("7\n"));
        assert_eq!((group.kept.len(), hierarchies.open()), (1, 1));
        group.kept[0].1 = File::open(root.path()).unwrap();
        std::fs::remove_file(root.path().join("p/pids.current")).unwrap();
        assert_eq!(group.read("pids.current", &mut buffer), None);
        assert_eq!((group.kept.len(), hierarchies.open()), (0, 0));
    }
}
