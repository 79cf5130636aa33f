//! Shims that containerd has forgotten.
//!
//! containerd cancels a call when its client dies. If a Create or Delete is cancelled at the wrong moment, it leaves a
//! shim, sometimes with a container in it, that containerd no longer knows: it can only be found among the processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Containerd, Error, Kind, Result};

/// How long a shim may take to exit by itself after its last task was deleted.
const OWN_END: Duration = Duration::from_secs(2);
/// How long a shim may take to exit after a signal; it publishes its last events meanwhile.
const SIGNALLED_END: Duration = Duration::from_secs(10);
/// Interval between two checks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Containerd {
    /// Ends the shim of a sandbox, and all that runs in it. To be called when the sandbox has no task left: a shim that
    /// containerd knows then exits by itself.
    ///
    /// # Errors
    /// [`Kind::Other`] when the shim cannot be ended.
    pub async fn end_forgotten_shim(&self, sandbox: &str) -> Result<()> {
        let fails = |error: String| Error::new("end forgotten shim of sandbox", sandbox, Kind::Other, error);
        if self.has_ended(sandbox, OWN_END).await {
            return Ok(());
        }
        tracing::warn!(%sandbox, "killing a shim that containerd does not know any more, and all processes in it");
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(shim) = find(self.namespace(), sandbox) else { return Ok(()) };
            // A shim removes its socket on SIGTERM. It reaps its children, so they are killed before it.
            self.kill_children(shim).await.map_err(fails)?;
            send(shim, signal, || is_shim(shim, self.namespace(), sandbox)).map_err(fails)?;
            if self.has_ended(sandbox, SIGNALLED_END).await {
                return Ok(());
            }
        }
        Err(fails("it outlives SIGKILL".to_owned()))
    }

    /// The ids of all objects that shims of this namespace serve, where a shim's command line and working directory
    /// agree.
    #[must_use]
    pub fn shims(&self) -> Vec<String> {
        let served = processes().filter_map(|pid| {
            let id = served_by(&read(pid, "cmdline"), self.namespace())?;
            has_bundle(pid, self.namespace(), &id).then_some(id)
        });
        served.collect()
    }

    /// Kills the children of a shim. Resolves when none is alive, or after a timeout: their cgroups are removed next.
    async fn kill_children(&self, shim: Pid) -> std::result::Result<(), String> {
        let killed = children(shim);
        for child in &killed {
            send(*child, Signal::KILL, || is_child(*child, shim))?;
        }
        let dead = async {
            while killed.iter().any(|child| is_alive(&read(*child, "stat"))) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let _ = tokio::time::timeout(SIGNALLED_END, dead).await;
        Ok(())
    }

    async fn has_ended(&self, sandbox: &str, within: Duration) -> bool {
        let ended = async {
            while find(self.namespace(), sandbox).is_some() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(within, ended).await.is_ok()
    }
}

/// The shim that serves a sandbox, if there is one.
fn find(namespace: &str, sandbox: &str) -> Option<Pid> {
    processes().find(|pid| is_shim(*pid, namespace, sandbox))
}

/// Requires two independent proofs, since the process will be killed: any process can change its own command line, but
/// no process in a container has a working directory with containerd's path.
fn is_shim(pid: Pid, namespace: &str, sandbox: &str) -> bool {
    served_by(&read(pid, "cmdline"), namespace).is_some_and(|id| id == sandbox) && has_bundle(pid, namespace, sandbox)
}

/// The first proof: the arguments with which containerd starts every shim. Returns the `-id` of a shim of this
/// namespace.
fn served_by(command_line: &[u8], namespace: &str) -> Option<String> {
    let arguments: Vec<_> = command_line.split(|byte| *byte == 0).collect();
    let value = |flag: &str| arguments.windows(2).find(|pair| pair[0] == flag.as_bytes()).map(|pair| pair[1]);
    let program = arguments[0].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !program.starts_with(b"containerd-shim-") || value("-namespace") != Some(namespace.as_bytes()) {
        return None;
    }
    String::from_utf8(value("-id")?.to_vec()).ok()
}

/// The second proof: containerd starts a shim in its bundle, `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`,
/// which may have been removed since.
fn has_bundle(pid: Pid, namespace: &str, id: &str) -> bool {
    let link = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("cwd");
    fs::read_link(link).is_ok_and(|directory| is_bundle(&directory, namespace, id))
}

fn is_bundle(directory: &Path, namespace: &str, id: &str) -> bool {
    let directory = directory.to_string_lossy();
    let directory = Path::new(directory.trim_end_matches(" (deleted)"));
    let bundles = Path::new("io.containerd.runtime.v2.task").join(namespace);
    // containerd renames a bundle before it removes it.
    [id.to_owned(), format!(".{id}")].iter().any(|name| directory.ends_with(bundles.join(name)))
}

fn children(parent: Pid) -> Vec<Pid> {
    processes().filter(|pid| is_child(*pid, parent)).collect()
}

fn is_child(pid: Pid, parent: Pid) -> bool {
    parent_of(&read(pid, "stat")) == Some(parent)
}

/// Looks at the state, the third field of /proc/PID/stat. A zombie does not count as alive: it is in no cgroup any
/// more.
fn is_alive(stat: &[u8]) -> bool {
    let stat = String::from_utf8_lossy(stat);
    stat.rsplit_once(')').is_some_and(|(_, after_name)| !after_name.trim_start().starts_with(['Z', 'X']))
}

/// The fourth field of /proc/PID/stat. The second field, the command's name, may contain blanks and parentheses.
fn parent_of(stat: &[u8]) -> Option<Pid> {
    let stat = String::from_utf8_lossy(stat);
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_whitespace().nth(1)?.parse().ok()?)
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// Reads a file of a process in /proc; empty when the process has ended.
fn read(pid: Pid, name: &str) -> Vec<u8> {
    fs::read(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join(name)).unwrap_or_default()
}

/// Signals a process if `it_is` confirms that it is the process that was found. The pidfd is opened before that check,
/// so that a reused PID gets no signal.
fn send(pid: Pid, signal: Signal, it_is: impl FnOnce() -> bool) -> std::result::Result<(), String> {
    let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|process| match it_is() {
        true => pidfd_send_signal(process, signal),
        false => Ok(()),
    });
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(format!("signal process {}: {error}", pid.as_raw_nonzero())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_arguments() {
        let line = b"/opt/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0abc\0-address\0/run/c.sock\0";
        assert_eq!(served_by(line, "k8s.io").as_deref(), Some("abc"));
        assert_eq!(served_by(line, "default"), None);
        assert_eq!(served_by(b"grep\0-namespace\0k8s.io\0-id\0abc\0", "k8s.io"), None);
        assert_eq!(served_by(b"", "k8s.io"), None);
    }

    #[test]
    fn a_shim_is_known_by_its_bundle_too() {
        let bundle = |path: &str| is_bundle(Path::new(path), "k8s.io", "abc");
        assert!(bundle("/run/containerd/io.containerd.runtime.v2.task/k8s.io/abc"));
        assert!(bundle("/run/containerd/io.containerd.runtime.v2.task/k8s.io/.abc (deleted)"));
        assert!(!bundle("/run/containerd/io.containerd.runtime.v2.task/default/abc"));
        assert!(!bundle("/run/containerd/io.containerd.runtime.v2.task/k8s.io/abcd"));
        assert!(!bundle("/k8s.io/abc") && !bundle("/"));
    }

    #[test]
    fn a_parent_is_read_whatever_the_name_of_the_command() {
        assert_eq!(parent_of(b"12 (a) b) S 34 5 6"), Pid::from_raw(34));
        assert_eq!(parent_of(b"1 (init) S 0 1 1"), None);
        assert_eq!(parent_of(b""), None);
        assert!(is_alive(b"12 (a) Z) S 34"));
        assert!(!is_alive(b"12 (a) Z 34") && !is_alive(b""));
    }

    #[test]
    fn own_children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(children(rustix::process::getpid()).contains(&pid));
        send(pid, Signal::KILL, || false).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "another process was signalled");
        send(pid, Signal::KILL, || true).unwrap();
        child.wait().unwrap();
        send(pid, Signal::KILL, || true).unwrap();
    }
}
