//! Whether the kernel killed a container because memory ran out.

use std::sync::Arc;

use crate::cgroup::{Level, OomKills, OomWatch};
use crate::container::{Container, Reason};
use crate::runtime::Node;
use crate::sys::changes::Changes;

/// Exit code of a process that SIGKILL has ended, and so of each one that the kernel killed because memory ran out.
const KILLED: i32 = 137;

impl Node {
    /// Watches a container's memory from now until it ends. Call this when it has a cgroup but no process yet: its
    /// first process may be killed at once.
    pub(crate) fn watch_memory(&self, container: &Arc<Container>) {
        let watch = Arc::new(OomWatch::open(&container.root.cgroups_path, self.host.facts.cgroup_v2));
        container.set_oom_watch(Some(Arc::clone(&watch)));
        // The counts are also read after the end of the container; this is for cgroups that are gone by then.
        let Some(changes) = watch.changes() else { return };
        let changes = match changes.and_then(Changes::of) {
            Ok(changes) => changes,
            Err(error) => {
                return tracing::warn!(%error, "cannot watch the container for OOM kills");
            }
        };
        let container = Arc::clone(container);
        self.tasks.background(async move {
            tokio::select! {
                () = follow(&watch, &changes) => {}
                () = container.ended() => {}
            }
        });
    }

    /// What the kernel did to a container that has ended. Its cgroup exists until its task is deleted; only a systemd
    /// scope is removed earlier.
    pub(crate) fn oom_kills(&self, container: &Container) -> Option<OomKills> {
        let late = || Arc::new(OomWatch::open(&container.root.cgroups_path, self.host.facts.cgroup_v2));
        container.oom_watch().unwrap_or_else(late).update()
    }
}

/// Reads the counts at each change, until there is nothing more to read.
async fn follow(watch: &OomWatch, changes: &Changes) {
    while changes.next().await.is_ok() {
        watch.update();
    }
}

/// Why a container ended: the reason, and a message.
///
/// The reason is OOMKilled if the container's first process was killed, and the kernel has killed a process of it. If
/// the container lost another process and went on to a different exit code, the kernel did not terminate it in the
/// sense of CRI's `reason`, but the message says what happened.
pub(crate) fn reason_of(code: i32, oom: Option<OomKills>) -> (Reason, String) {
    let Some(OomKills { kills, level }) = oom.filter(|oom| oom.kills > 0) else {
        return (Reason::of(code, false), String::new());
    };
    let whose = match level {
        Level::Container => "the container reached its memory limit",
        Level::Pod => "the pod reached its memory limit",
        Level::Node => "the node, or a cgroup above the pod, ran out of memory",
    };
    if code == KILLED {
        return (Reason::of(code, true), whose.to_owned());
    }
    let message = format!("the kernel had killed other processes of it ({kills}): {whose}");
    (Reason::of(code, false), message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::cgroup;

    /// A real cgroup of a pod, with one of a container in it.
    struct Real(PathBuf);

    impl Real {
        fn new() -> Self {
            let name = format!("pontoon-oom-{}", std::process::id());
            let real = Self(Path::new(cgroup::ROOT).join(name));
            fs::create_dir(&real.0).unwrap();
            fs::write(real.0.join("cgroup.subtree_control"), "+memory").unwrap();
            fs::create_dir(real.0.join("c")).unwrap();
            fs::write(real.0.join("c/memory.max"), "8388608").unwrap();
            real
        }

        fn path(&self) -> String {
            format!("/{}/c", self.0.file_name().unwrap().to_str().unwrap())
        }

        /// Lets a process in the container's cgroup run out of memory.
        fn overflow(&self) {
            let script = format!("echo $$ >{}/c/cgroup.procs; exec tail /dev/zero", self.0.display());
            assert!(!Command::new("sh").args(["-c", &script]).status().unwrap().success());
        }
    }

    impl Drop for Real {
        fn drop(&mut self) {
            let _ = fs::remove_dir(self.0.join("c"));
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// Does nothing unless the memory controller is on cgroup v2; tests/e2e/cgroup2.sh runs it where it is.
    #[tokio::test]
    async fn a_kill_is_known_when_the_cgroup_has_gone() {
        let controllers = fs::read_to_string(Path::new(cgroup::ROOT).join("cgroup.subtree_control"));
        if !controllers.is_ok_and(|all| all.contains("memory")) {
            return;
        }
        let real = Real::new();
        let (followed, blind) = (OomWatch::open(&real.path(), true), OomWatch::open(&real.path(), true));
        let changes = Changes::of(followed.changes().unwrap().unwrap()).unwrap();
        assert_eq!(followed.update().map(|oom| oom.kills), Some(0));
        real.overflow();
        tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("the kernel tells").unwrap();
        let expected = Some(OomKills { kills: 1, level: Level::Container });
        assert_eq!(followed.update(), expected);
        // systemd removes a scope's cgroup in the same way.
        fs::remove_dir(real.0.join("c")).unwrap();
        assert_eq!(followed.update(), expected);
        assert_eq!(blind.update(), expected, "by the pod's count");
    }

    #[test]
    fn a_killed_container_is_distinguished_from_one_that_lost_a_child() {
        let oom = |kills| Some(OomKills { kills, level: Level::Pod });
        let reasons = [(137, oom(1)), (137, oom(0)), (137, None), (1, oom(2)), (0, oom(1)), (0, None)]
            .map(|(code, oom)| reason_of(code, oom).0);
        let expected =
            [Reason::OOMKilled, Reason::Error, Reason::Error, Reason::Error, Reason::Completed, Reason::Completed];
        assert_eq!(reasons, expected);
        assert_eq!(reason_of(137, oom(1)).1, "the pod reached its memory limit");
        assert!(reason_of(1, oom(2)).1.contains("other processes of it (2)"));
        assert_eq!(reason_of(137, oom(0)).1, "");
    }
}
