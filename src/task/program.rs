//! The program that a process runs: the runtime's own before the start, and the container's afterwards. A second
//! Tasks.Start of a started process blocks until the process ends (runc opens the FIFO that its init has already
//! passed), so the owner checks the program instead.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// How often to check a process whose Start is repeated.
const LOOK: Duration = Duration::from_millis(200);
/// How long a repeated Start may go on once the process runs another program: this Start may be what started it.
const ANSWER: Duration = Duration::from_secs(1);

/// Device and inode of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program(u64, u64);

impl Program {
    /// Returns the program of a process; `None` if this host has no process with that PID, for example because it runs
    /// in a VM.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some(Self(file.dev(), file.ino()))
    }

    /// Whether the process has stopped running this program: it runs another one, or has ended.
    pub(super) fn is_left_by(self, pid: u32) -> bool {
        Self::of(pid) != Some(self)
    }

    /// Resolves a while after the process has stopped running this program.
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
        // Between fork and exec, the process still runs the test program.
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
