//! Processes that hold a container's root file system, so that it cannot be unmounted (containerd#4020).
//!
//! Call this only after unmounting failed, because it reads all of /proc. It reads links there but never follows
//! them, so a process whose files are on a server that does not answer delays nothing.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ids::ContainerId;
use crate::joined::run_blocking;
use crate::sys::mountinfo;

/// Time limit of a search. The holders found by then are enough.
const LIMIT: Duration = Duration::from_secs(2);
/// How many holders are reported.
const MOST: usize = 4;
/// How many open files of one process are checked.
const FILES: usize = 100_000;

/// [`Holder::by`] of a process that holds the root file system by copies of mounts.
const MOUNTS: &str = "mounts";

/// A process, and how it holds the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// PID in the host's PID namespace.
    pub pid: u32,
    /// The kernel's name (comm) of the process, which the process itself can change.
    pub name: String,
    /// For example `open file`.
    pub by: &'static str,
}

impl Holder {
    /// Whether the process may only be passing through. One that starts another container has copies of all mounts of
    /// the host until it changes to its own root file system.
    #[must_use]
    pub fn may_be_brief(&self) -> bool {
        self.by == MOUNTS
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({:?}, by its {})", self.pid, self.name, self.by)
    }
}

/// Processes that hold the root file system of a container: at most a few.
pub async fn holders(id: &ContainerId) -> Vec<Holder> {
    let root = Root::of(id);
    let look = run_blocking(move || look(Path::new("/proc"), &root));
    // A read that hangs occupies its own thread and delays no other caller.
    tokio::time::timeout(2 * LIMIT, look).await.unwrap_or_default()
}

/// Recognizes paths in a container's root file system. containerd mounts it at `<state>/<namespace>/<id>/rootfs`, and
/// the id occurs in no other path.
struct Root(String);

impl Root {
    fn of(id: &ContainerId) -> Self {
        Self(format!("/{id}/rootfs"))
    }

    /// Whether a path is the root or below it.
    fn has(&self, path: &str) -> bool {
        path.match_indices(&self.0)
            .any(|(at, found)| matches!(path.as_bytes().get(at + found.len()), None | Some(b'/')))
    }
}

fn look(proc: &Path, root: &Root) -> Vec<Holder> {
    let until = Instant::now() + LIMIT;
    let pids: Vec<u32> = entries(proc).filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect();
    let mut found = Vec::new();
    // Mounts last: a copy of the mount in another mount namespace holds the root only if something is mounted below
    // it.
    for by in [by_link as fn(&Path, &Root) -> Option<&'static str>, by_mount] {
        for pid in &pids {
            if found.len() == MOST || Instant::now() > until {
                return found;
            }
            let process = proc.join(pid.to_string());
            if let Some(by) = by(&process, root) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(Holder { pid: *pid, name: name.trim_end().to_owned(), by });
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    found
}

fn by_link(process: &Path, root: &Root) -> Option<&'static str> {
    let has = |path: PathBuf| fs::read_link(path).is_ok_and(|target| root.has(&target.to_string_lossy()));
    let links = [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")];
    let link = links.into_iter().find(|(name, _)| has(process.join(name))).map(|(_, by)| by);
    link.or_else(|| entries(&process.join("fd")).take(FILES).any(has).then_some("open file"))
}

/// Whether a mount namespace other than ours has a mount at or below the root. containerd unmounts those in our
/// namespace.
fn by_mount(process: &Path, root: &Root) -> Option<&'static str> {
    let namespace = |process: &Path| fs::metadata(process.join("ns/mnt")).map(|found| (found.dev(), found.ino())).ok();
    let ours = process.parent().and_then(|proc| namespace(&proc.join("self")));
    if namespace(process) == ours {
        return None;
    }
    let table = fs::read(process.join("mountinfo")).ok()?;
    let mut mounts = mountinfo::mounts(&table);
    mounts.any(|mount| root.has(&mount.point.to_string_lossy())).then_some(MOUNTS)
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn r14_a_process_in_a_containers_root_is_found_by_what_it_has_there() {
        let (id, other) = (ContainerId::random(), ContainerId::random());
        let state = tempfile::tempdir().unwrap();
        let below = state.path().join(id.as_str()).join("rootfs/deep");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("file"), "").unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdin(Stdio::null());
        let cases = [
            (sleep.current_dir(&below).spawn().unwrap(), "working directory"),
            (sleep.current_dir("/").stdin(fs::File::open(below.join("file")).unwrap()).spawn().unwrap(), "open file"),
        ];
        for (mut child, by) in cases {
            let pid = child.id();
            // Until its exec, the child is a copy of this test.
            let ours =
                |found: &Vec<Holder>| found.iter().any(|one| one.pid == pid && one.name == "sleep" && one.by == by);
            let mut found = holders(&id).await;
            while !ours(&found) && child.try_wait().unwrap().is_none() {
                found = holders(&id).await;
            }
            assert!(ours(&found), "{by}: {found:?}");
            assert_eq!(holders(&other).await, []);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // The Command holds the file open. Children that other tests have just forked also hold it, until their exec.
        drop(sleep);
        let start = Instant::now();
        while !holders(&id).await.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", holders(&id).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn r14_a_copy_of_the_mount_elsewhere_is_named_when_nothing_else_is() {
        let (id, proc) = (ContainerId::random(), tempfile::tempdir().unwrap());
        let make = |pid: &str, mounts: &str| {
            let process = proc.path().join(pid);
            fs::create_dir_all(process.join("ns")).unwrap();
            fs::write(process.join("ns/mnt"), "").unwrap();
            fs::write(process.join("mountinfo"), mounts).unwrap();
            fs::write(process.join("comm"), format!("p{pid}\n")).unwrap();
            process
        };
        let mounts = format!("1 2 0:3 / /run/containerd/k8s.io/{id}/rootfs rw - overlay overlay rw\n");
        fs::remove_dir_all(make("self", "")).unwrap();
        symlink("7", proc.path().join("self")).unwrap();
        make("7", &mounts);
        make("8", &mounts);
        make("9", "");
        let root = Root::of(&id);
        assert_eq!(look(proc.path(), &root), [Holder { pid: 8, name: "p8".to_owned(), by: "mounts" }]);
        symlink(format!("/run/{id}/rootfs/x"), proc.path().join("9/cwd")).unwrap();
        let by = "working directory";
        assert_eq!(look(proc.path(), &root), [Holder { pid: 9, name: "p9".to_owned(), by }]);
    }

    #[test]
    fn r14_only_the_root_itself_and_what_is_below_it_counts() {
        let id = ContainerId::random();
        let root = Root::of(&id);
        for (path, has) in [
            (format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/rootfs"), true),
            (format!("/run/{id}/rootfs/etc (deleted)"), true),
            (format!("/run/{id}/rootfs2"), false),
            (format!("/run/{id}"), false),
            (format!("/run/x{id}/rootfs"), false),
        ] {
            assert_eq!(root.has(&path), has, "{path}");
        }
    }
}
