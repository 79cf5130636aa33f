//! Named pipes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};

/// The capacity for [`enlarge`]. Linux's default is 64 KiB. In a larger pipe, more data survives a restart of the
/// reader, and each wake-up of the reader moves more.
const CAPACITY: usize = 256 * 1024;

/// Which end of a FIFO to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Opens at once, with or without a writer.
    Read,
    /// Fails with `ENXIO` when there is no reader.
    Write,
    /// Never waits, and does not need another process at the other end.
    Both,
}

/// Creates a FIFO that only root may open. An existing one, left by an earlier attempt, is replaced; the data in it is
/// lost.
///
/// # Errors
/// The errors of mkfifo(3) and unlink(2).
pub fn make(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?)
}

/// Opens one end of a FIFO, non-blocking and close-on-exec.
///
/// # Errors
/// The error of open(2); `InvalidInput` when the path is not a FIFO.
pub fn open(path: &Path, end: End) -> io::Result<OwnedFd> {
    let access = match end {
        End::Read => OFlags::RDONLY,
        End::Write => OFlags::WRONLY,
        End::Both => OFlags::RDWR,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Fifo {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a FIFO"));
    }
    Ok(fd)
}

/// Whether the FIFO of this read end has a writer. Also true before the first writer has opened it: the kernel reports
/// a hangup only after there has been one.
pub fn has_writer(read: &impl AsFd) -> bool {
    let mut look = [PollFd::new(read, PollFlags::IN)];
    // A poll with a zero timeout only fails when the kernel is out of memory.
    rustix::event::poll(&mut look, Some(&Timespec::default())).is_ok() && !look[0].revents().contains(PollFlags::HUP)
}

/// Whether a write to the FIFO of this read end would block. The number of bytes in it does not show
/// that, because each write may take a page of its own.
///
/// # Errors
/// The errors of open(2) and poll(2).
pub fn is_full(read: &impl AsFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", read.as_fd().as_raw_fd());
    let write = rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut look = [PollFd::new(&write, PollFlags::OUT)];
    rustix::event::poll(&mut look, Some(&Timespec::default()))?;
    Ok(!look[0].revents().contains(PollFlags::OUT))
}

/// Enlarges a pipe to `CAPACITY` if the kernel allows it; a refusal is ignored.
pub fn enlarge(fd: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(fd, CAPACITY);
}
