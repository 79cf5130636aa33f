//! Counts the processes that the kernel's OOM killer has killed, and finds out whose limit was reached.
//!
//! v2: memory.events includes the counts of all descendants; memory.events.local has those of the cgroup's own limit
//! (cgroup-v2.rst). Reading memory.events arms poll: the kernel then wakes a waiter at each change. So the counts of a
//! scope's cgroup are known before systemd removes it, which it does as soon as the last process is gone.
//! v1: `oom_kill` of memory.oom_control counts for this cgroup only (cgroup-v1/memory.rst). Its maximum usage shows
//! whether its own limit was ever reached. memory.failcnt does not show that if swap is limited to the same amount
//! (seen on Linux 6.18). On v1 the cgroup exists until the runtime deletes it, which is after the exit has been
//! evaluated.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::file_system_path;
use super::usage::keyed::{single, value};
use crate::mutex::Mutex;

/// Enough for either file; each has about ten short lines.
const FILE_SIZE: usize = 1024;

/// The amount that the kernel charges at once if it can (64 pages). Usage may come this close to a limit without
/// reaching it.
const CHARGE_BATCH: u64 = 256 << 10;

/// The level at which memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The container's limit, or one that the container has set on a cgroup of its own.
    Container,
    Pod,
    /// A limit above the pod, or the memory of the node.
    Node,
}

/// The OOM kills in a container so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKills {
    /// How many of its processes were killed.
    pub kills: u64,
    /// The level at which memory ran out, for the last kill that was observed.
    pub level: Level,
}

/// Watches a container's cgroup, starting before its first process runs.
#[derive(Debug)]
pub struct OomWatch {
    unified: bool,
    pod: PathBuf,
    /// The container's counts; `None` when its cgroup does not exist or has no memory controller.
    counts: Option<File>,
    /// The directory of the container's cgroup, for reading files other than `counts`.
    container: PathBuf,
    /// The pod's counts when the watch began, since its other containers may have had kills before. Not available on
    /// v1.
    before: PodCounts,
    seen: Mutex<Option<OomKills>>,
}

/// The counts of a pod; all 0 on v1.
#[derive(Clone, Copy, Debug, Default)]
struct PodCounts {
    /// Kills in any of its containers.
    kills: u64,
    /// How often the pod's own limit was reached.
    limit: u64,
}

impl OomWatch {
    /// Starts to watch. Files that cannot be opened are not watched; [`OomWatch::update`] then returns `None` or the
    /// pod's counts.
    #[must_use]
    pub fn open(cgroups_path: &str, unified: bool) -> Self {
        Self::at(file_system_path(cgroups_path, unified, "memory"), unified)
    }

    fn at(container: PathBuf, unified: bool) -> Self {
        let pod = container.parent().map(Path::to_owned).unwrap_or_default();
        let counts = File::open(container.join(if unified { "memory.events" } else { "memory.oom_control" })).ok();
        let before = pod_counts(&pod, unified);
        let watch = Self { unified, pod, counts, container, before, seen: Mutex::default() };
        // Arms poll. After a restart of the daemon there may already be kills to see.
        watch.update();
        watch
    }

    /// A new descriptor for waiting until the counts change; `None` on v1, where the kernel does not notify.
    #[must_use]
    pub fn changes(&self) -> Option<io::Result<OwnedFd>> {
        self.counts.as_ref().filter(|_| self.unified).map(|file| file.as_fd().try_clone_to_owned())
    }

    /// The container's OOM kills, as far as they are known. When its cgroup is gone, this is the last observed count.
    /// If that is missing or 0, it is the pod's count (docs/rulings.md 11), which may be about another container of the pod.
    pub fn update(&self) -> Option<OomKills> {
        let mut seen = self.seen.lock();
        match self.kills() {
            Some(kills) if seen.is_none_or(|seen| seen.kills < kills) => {
                *seen = Some(OomKills { kills, level: self.level() });
            }
            Some(_) => {}
            None if seen.is_none_or(|seen| seen.kills == 0) => *seen = self.of_the_pod().or(*seen),
            None => {}
        }
        *seen
    }

    /// `None` when the cgroup is gone: reading its file then fails with ENODEV.
    fn kills(&self) -> Option<u64> {
        self.count("oom_kill")
    }

    fn count(&self, name: &str) -> Option<u64> {
        let mut bytes = [0; FILE_SIZE];
        // Read from the start each time; the kernel generates the text anew.
        let length = self.counts.as_ref()?.read_at(&mut bytes, 0).ok()?;
        value(str::from_utf8(bytes.get(..length)?).ok()?, name)
    }

    fn level(&self) -> Level {
        let (container, pod) = if self.unified {
            let pod = pod_counts(&self.pod, true).limit > self.before.limit;
            (self.count("oom").is_some_and(|times| times > 0), pod)
        } else {
            (was_full(&self.container), was_full(&self.pod))
        };
        if container {
            Level::Container
        } else if pod {
            Level::Pod
        } else {
            Level::Node
        }
    }

    fn of_the_pod(&self) -> Option<OomKills> {
        let now = pod_counts(&self.pod, self.unified);
        let kills = now.kills.checked_sub(self.before.kills).filter(|kills| *kills > 0)?;
        // If the pod's own limit had been reached, its count would have risen. The container's count is gone with its
        // cgroup.
        let level = if now.limit > self.before.limit { Level::Pod } else { Level::Container };
        Some(OomKills { kills, level })
    }
}

fn pod_counts(pod: &Path, unified: bool) -> PodCounts {
    if !unified {
        return PodCounts::default();
    }
    let of = |file: &str, name: &str| {
        let text = std::fs::read_to_string(pod.join(file)).ok();
        text.and_then(|text| value(&text, name)).unwrap_or(0)
    };
    PodCounts { kills: of("memory.events", "oom_kill"), limit: of("memory.events.local", "oom") }
}

/// v1: whether a cgroup has ever used as much memory as its limit allows, with or without swap.
fn was_full(cgroup: &Path) -> bool {
    let number = |file: String| single(&std::fs::read_to_string(cgroup.join(file)).ok()?);
    ["memory", "memory.memsw"].into_iter().any(|kind| {
        let (most, limit) = (number(format!("{kind}.max_usage_in_bytes")), number(format!("{kind}.limit_in_bytes")));
        most.zip(limit).is_some_and(|(most, limit)| most.saturating_add(CHARGE_BATCH) >= limit)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The cgroup of a pod with one container, as plain files.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fs::create_dir(fake.0.path().join("c")).unwrap();
            for (name, text) in files {
                fake.write(name, text);
            }
            fake
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn watch(&self, unified: bool) -> OomWatch {
            OomWatch::at(self.0.path().join("c"), unified)
        }
    }

    const CALM: &str = "low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n";

    fn v2() -> Fake {
        Fake::new(&[("memory.events", CALM), ("memory.events.local", CALM), ("c/memory.events", CALM)])
    }

    fn killed(kills: u64, level: Level) -> Option<OomKills> {
        Some(OomKills { kills, level })
    }

    #[test]
    fn the_level_is_whose_limit_was_reached() {
        let (container, pod, node) = (v2(), v2(), v2());
        let watches = [&container, &pod, &node].map(|fake| fake.watch(true));
        container.write("c/memory.events", "oom 1\noom_kill 1\n");
        pod.write("c/memory.events", "oom 0\noom_kill 2\n");
        pod.write("memory.events.local", "oom 1\noom_kill 0\n");
        node.write("c/memory.events", "oom 0\noom_kill 1\n");
        let expected = [killed(1, Level::Container), killed(2, Level::Pod), killed(1, Level::Node)];
        assert_eq!(watches.map(|watch| watch.update()), expected);
    }

    #[test]
    fn what_the_pod_went_through_before_does_not_count() {
        let fake = v2();
        fake.write("memory.events.local", "oom 7\noom_kill 7\n");
        let watch = fake.watch(true);
        assert_eq!(watch.update(), killed(0, Level::Node));
        fake.write("c/memory.events", "oom 0\noom_kill 1\n");
        assert_eq!(watch.update(), killed(1, Level::Node));
    }

    #[test]
    fn what_was_seen_stays_when_the_cgroup_has_gone() {
        let fake = v2();
        let watch = fake.watch(true);
        fake.write("c/memory.events", "oom 1\noom_kill 1\n");
        assert_eq!(watch.update(), killed(1, Level::Container));
        // An empty file gives no counts, like a file of a removed cgroup.
        fake.write("c/memory.events", "");
        assert_eq!(watch.update(), killed(1, Level::Container));
    }

    #[test]
    fn without_the_containers_count_the_pods_is_taken() {
        let fake = v2();
        let watch = fake.watch(true);
        fake.write("c/memory.events", "");
        assert_eq!(watch.update(), killed(0, Level::Node));
        fake.write("memory.events", "oom 1\noom_kill 1\n");
        assert_eq!(watch.update(), killed(1, Level::Container));
        assert_eq!(OomWatch::at("/nowhere/c".into(), true).update(), None);
    }

    #[test]
    fn v1_derives_the_level_from_the_maximum_usage() {
        let unlimited = ("memory.limit_in_bytes", "9223372036854771712\n");
        let fake = Fake::new(&[unlimited, ("memory.max_usage_in_bytes", "20971520\n")]);
        fake.write("c/memory.limit_in_bytes", "9223372036854771712\n");
        fake.write("c/memory.max_usage_in_bytes", "16777216\n");
        fake.write("c/memory.memsw.limit_in_bytes", "9223372036854771712\n");
        fake.write("c/memory.memsw.max_usage_in_bytes", "16777216\n");
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let watch = fake.watch(false);
        assert!(watch.changes().is_none());
        assert_eq!(watch.update(), killed(0, Level::Node));
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        fake.write("memory.limit_in_bytes", "20971520\n");
        assert_eq!(watch.update(), killed(1, Level::Pod));
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        fake.write("c/memory.memsw.limit_in_bytes", "16777216\n");
        assert_eq!(watch.update(), killed(2, Level::Container));
    }
}
