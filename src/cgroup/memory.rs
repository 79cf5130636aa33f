//! The kernel's counts of processes that it killed for want of memory, and whose limit it was.
//!
//! v2: memory.events, whose counts go up to all ancestors, and memory.events.local, of the cgroup's own limit
//! (cgroup-v2.rst). A read of it arms poll: the kernel wakes whoever waits at each change, so that what a scope's cgroup
//! said is known when systemd has removed it, which it does as soon as the last process is gone.
//! v1: `oom_kill` of memory.oom_control, of this cgroup only (cgroup-v1/memory.rst). What its use has been at most says whether its
//! own limit was ever reached; memory.failcnt does not where swap is limited too, to the same amount (seen on Linux 6.18).
//! There the cgroup lives until the runtime deletes it, after the exit was judged.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::file_system_path;
use super::usage::keyed::{single, value};

/// Enough for either file; they have about ten short lines.
const FILE_SIZE: usize = 1024;

/// What the kernel charges at once when it can (64 pages), and so how near to a limit it may get without reaching it.
const CHARGE: u64 = 256 << 10;

/// Whose memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The container's limit, or one that the container has set below it.
    Container,
    /// The pod's limit.
    Pod,
    /// A limit above the pod, or the whole node.
    Node,
}

/// What the kernel has done to a container so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKills {
    /// Processes of it that were killed.
    pub kills: u64,
    /// Whose memory ran out, of the last kill that was seen.
    pub level: Level,
}

/// Watches a container's cgroup from before its first process runs.
#[derive(Debug)]
pub struct OomWatch {
    unified: bool,
    pod: PathBuf,
    /// Counts of the container; `None` when its cgroup is not there, or has no memory controller.
    counts: Option<File>,
    /// In the directory of the container's cgroup, to read once more than `counts`.
    container: PathBuf,
    /// The pod's counts when the watch began: other containers of it may have been killed before. v1 has none.
    before: PodCounts,
    seen: Mutex<Option<OomKills>>,
}

/// A pod's counts, all 0 on v1.
#[derive(Clone, Copy, Debug, Default)]
struct PodCounts {
    /// Killed in any of its containers.
    kills: u64,
    /// How often its own limit was reached.
    limit: u64,
}

impl OomWatch {
    /// Begins to watch. What cannot be opened is not watched, which [`OomWatch::look`] then says.
    #[must_use]
    pub fn open(cgroups_path: &str, unified: bool) -> Self {
        Self::at(file_system_path(cgroups_path, unified, "memory"), unified)
    }

    fn at(container: PathBuf, unified: bool) -> Self {
        let pod = container.parent().map(Path::to_owned).unwrap_or_default();
        let counts = File::open(container.join(if unified { "memory.events" } else { "memory.oom_control" })).ok();
        let before = pod_counts(&pod, unified);
        let watch = Self { unified, pod, counts, container, before, seen: Mutex::default() };
        // Arms poll. A process before this one may have left something to be seen already.
        watch.look();
        watch
    }

    /// A descriptor of its own, to wait on until something has changed; `None` where the kernel does not tell (v1).
    #[must_use]
    pub fn changes(&self) -> Option<io::Result<OwnedFd>> {
        self.counts.as_ref().filter(|_| self.unified).map(|file| file.as_fd().try_clone_to_owned())
    }

    /// What has happened to the container, as far as it is known. When its cgroup is gone that is what was seen last, or
    /// else (rulings.md 11) what the pod's counts say, which may be of another container of the pod.
    pub fn look(&self) -> Option<OomKills> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// `None` when the cgroup is gone: then a descriptor of its file gives ENODEV.
    fn kills(&self) -> Option<u64> {
        self.count("oom_kill")
    }

    fn count(&self, name: &str) -> Option<u64> {
        let mut bytes = [0; FILE_SIZE];
        // From the start each time; the kernel makes the text anew.
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
        // Had it been the pod's own limit, its count would tell; a container's count went with its cgroup.
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

/// v1: whether a cgroup has ever used as much memory as it may, without swap or with it.
fn was_full(cgroup: &Path) -> bool {
    let number = |file: String| single(&std::fs::read_to_string(cgroup.join(file)).ok()?);
    ["memory", "memory.memsw"].into_iter().any(|kind| {
        let (most, limit) = (number(format!("{kind}.max_usage_in_bytes")), number(format!("{kind}.limit_in_bytes")));
        most.zip(limit).is_some_and(|(most, limit)| most.saturating_add(CHARGE) >= limit)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A pod's cgroup with one container's, as plain files.
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
        assert_eq!(watches.map(|watch| watch.look()), expected);
    }

    #[test]
    fn what_the_pod_went_through_before_does_not_count() {
        let fake = v2();
        fake.write("memory.events.local", "oom 7\noom_kill 7\n");
        let watch = fake.watch(true);
        assert_eq!(watch.look(), killed(0, Level::Node));
        fake.write("c/memory.events", "oom 0\noom_kill 1\n");
        assert_eq!(watch.look(), killed(1, Level::Node));
    }

    #[test]
    fn what_was_seen_stays_when_the_cgroup_has_gone() {
        let fake = v2();
        let watch = fake.watch(true);
        fake.write("c/memory.events", "oom 1\noom_kill 1\n");
        assert_eq!(watch.look(), killed(1, Level::Container));
        // As the kernel's file of a cgroup that is removed, one that was cut short tells nothing.
        fake.write("c/memory.events", "");
        assert_eq!(watch.look(), killed(1, Level::Container));
    }

    #[test]
    fn without_the_containers_count_the_pods_is_taken() {
        let fake = v2();
        let watch = fake.watch(true);
        fake.write("c/memory.events", "");
        assert_eq!(watch.look(), killed(0, Level::Node));
        fake.write("memory.events", "oom 1\noom_kill 1\n");
        assert_eq!(watch.look(), killed(1, Level::Container));
        assert_eq!(OomWatch::at("/nowhere/c".into(), true).look(), None);
    }

    #[test]
    fn v1_tells_by_what_was_used_at_most() {
        let unlimited = ("memory.limit_in_bytes", "9223372036854771712\n");
        let fake = Fake::new(&[unlimited, ("memory.max_usage_in_bytes", "20971520\n")]);
        fake.write("c/memory.limit_in_bytes", "9223372036854771712\n");
        fake.write("c/memory.max_usage_in_bytes", "16777216\n");
        fake.write("c/memory.memsw.limit_in_bytes", "9223372036854771712\n");
        fake.write("c/memory.memsw.max_usage_in_bytes", "16777216\n");
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let watch = fake.watch(false);
        assert!(watch.changes().is_none());
        assert_eq!(watch.look(), killed(0, Level::Node));
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        fake.write("memory.limit_in_bytes", "20971520\n");
        assert_eq!(watch.look(), killed(1, Level::Pod));
        fake.write("c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        fake.write("c/memory.memsw.limit_in_bytes", "16777216\n");
        assert_eq!(watch.look(), killed(2, Level::Container));
    }
}
