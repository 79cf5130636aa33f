//! stdin of a command with a terminal, which is held open as long as the shim may still open it.
//!
//! The shim opens a read end and a write end, each in its own goroutine that may run late. At the end of the input it
//! hangs up the terminal and closes the read end. A write end that is opened after that waits in open(2) forever and
//! occupies a thread, because with a terminal nothing in the shim closes it (containerd 2.4's `execProcess.openStdin`
//! and `delete`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::sys::fifo::{self, End};

/// How long after the command's deletion the shim's write end may still be opened. It usually is open long before,
/// except for one in some thousand commands on a busy node.
const LATE: Duration = Duration::from_secs(5);
/// Interval for checking whether the shim has opened it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Both ends of the FIFO.
#[derive(Debug)]
pub struct TerminalInput {
    read: OwnedFd,
    write: OwnedFd,
}

impl TerminalInput {
    /// Opens a FIFO that no other process has open.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // In this order, because a write end cannot be opened without a reader.
        let read = fifo::open(path, End::Read)?;
        Ok(Self { read, write: fifo::open(path, End::Write)? })
    }

    /// To be called when the command is deleted. Closes the write end now, and the read end when the shim has opened
    /// its write end. Waits for that no longer than [`LATE`], because the shim may also have closed it already.
    pub async fn release(self) {
        drop(self.write);
        let until = Instant::now() + LATE;
        while !fifo::has_writer(&self.read) && Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> (tempfile::TempDir, std::path::PathBuf, TerminalInput) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdin");
        fifo::make(&path).unwrap();
        let input = TerminalInput::open(&path).unwrap();
        (directory, path, input)
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_has_its_write_end_is_not_waited_for() {
        let (_directory, path, input) = input();
        let _shim = fifo::open(&path, End::Write).unwrap();
        let start = Instant::now();
        input.release().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(fifo::open(&path, End::Write).is_err(), "the read end is held still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_end_that_comes_late_finds_a_reader() {
        let (_directory, path, input) = input();
        let late = async {
            tokio::time::sleep(LATE / 2).await;
            fifo::open(&path, End::Write).expect("in the shim this would wait for ever")
        };
        let start = Instant::now();
        let ((), _shim) = tokio::join!(input.release(), late);
        assert!(start.elapsed() <= LATE / 2 + LOOK_AGAIN, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_end_that_does_not_come_is_not_waited_for_any_longer() {
        let (_directory, _, input) = input();
        let start = Instant::now();
        input.release().await;
        assert!(start.elapsed() >= LATE && start.elapsed() <= LATE + LOOK_AGAIN, "{:?}", start.elapsed());
    }
}
