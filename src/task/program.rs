//! Which program a process runs: the runtime's own until it is started, and then the container's. A second Tasks.Start of
//! what was started blocks until the process ends (runc opens the FIFO that its init has gone past), so that is looked at.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// How often a process is looked at whose Start is repeated.
const LOOK: Duration = Duration::from_millis(200);
/// How long a repeated Start may go on once the process runs another program: it may be this Start that did it.
const ANSWER: Duration = Duration::from_secs(1);

/// Device and inode of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program(u64, u64);

impl Program {
    /// That of a process; `None` when there is none of that PID here, as for one in a VM.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some(Self(file.dev(), file.ino()))
    }

    /// Whether the process runs it no more: it runs another one, or has ended.
    pub(super) fn is_left_by(self, pid: u32) -> bool {
        Self::of(pid) != Some(self)
    }

    /// Resolves when the process has run it no more for a while.
    pub(super) async fn left_by(self, pid: u32) {
        while !self.is_left_by(pid) {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(ANSWER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_leaves_a_program_by_running_another_one_or_by_its_end() {
        let mut process = tokio::process::Command::new("sh")
            .args(["-c", "read line; exec sleep 100"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = process.id().unwrap();
        let shell = Program::of(pid).unwrap();
        // Between fork and exec it is this test.
        let shell = if Some(shell) == Program::of(std::process::id()) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Program::of(pid).unwrap()
        } else {
            shell
        };
        assert!(!shell.is_left_by(pid));
        drop(process.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), shell.left_by(pid)).await.unwrap();
        let sleep = Program::of(pid).unwrap();
        process.kill().await.unwrap();
        assert!(sleep.is_left_by(pid));
    }
}
