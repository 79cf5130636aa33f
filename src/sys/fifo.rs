//! Named pipes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};

/// What a pipe may hold while nobody reads it. Linux starts with 64 KiB; more bytes survive a
/// restart of the reader and each wake-up moves more.
const CAPACITY: usize = 256 * 1024;

/// Which end of a FIFO to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To read. Opens at once, with or without a writer.
    Read,
    /// To write. `ENXIO` when nobody has it open to read.
    Write,
    /// Both, which never waits and never fails for want of a peer.
    Both,
}

/// Makes a FIFO that only root may open. One that is there already, left by an earlier
/// attempt, is replaced: what is in it belongs to nobody.
///
/// # Errors
/// What mkfifo(3) and unlink(2) say.
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
/// What open(2) says; `InvalidInput` when the path is not a FIFO.
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

/// Whether anybody has it open to write. Asked of a read end: it is told of a hangup when nobody has, if somebody had.
pub fn has_writer(read: &impl AsFd) -> bool {
    let mut look = [PollFd::new(read, PollFlags::IN)];
    // A poll that does not wait fails for want of memory only.
    rustix::event::poll(&mut look, Some(&Timespec::default())).is_ok() && !look[0].revents().contains(PollFlags::HUP)
}

/// Whether a writer would have to wait. Asked of a read end. Its bytes alone do not tell: each write may take a page.
///
/// # Errors
/// What open(2) and poll(2) say.
pub fn is_full(read: &impl AsFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", read.as_fd().as_raw_fd());
    let write = rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut look = [PollFd::new(&write, PollFlags::OUT)];
    rustix::event::poll(&mut look, Some(&Timespec::default()))?;
    Ok(!look[0].revents().contains(PollFlags::OUT))
}

/// Enlarges a pipe as far as the kernel lets us; that it does not is no error.
pub fn enlarge(fd: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(fd, CAPACITY);
}
