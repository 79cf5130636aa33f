//! The output of an ExecSync: two FIFOs read to their end, or until nobody should wait any longer.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join;
use rustix::buffer::spare_capacity;
use tokio::net::unix::pipe;

use super::{Error, Result, StreamName};
use crate::containerd::Stdio;
use crate::sys::fifo::{self, End};

/// Least room for a read; most probes print less.
const LEAST: usize = 4 * 1024;
/// Room for a read of what is discarded.
const DISCARD: usize = 16 * 1024;

/// What an exec's output is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes kept of stdout and stderr together; the rest is read and discarded, and the
    /// command goes on. By default a reply of kubelet's 16 MiB without 64 KiB for all else.
    pub cap: usize,
    /// How long after the process's exit its output may stay open: a child that it left in the
    /// background holds it. By default 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cap: (16 << 20) - (64 << 10), drain: Duration::from_secs(10) }
    }
}

/// What an exec left behind.
#[derive(Debug)]
pub struct Collected<T> {
    /// What told of its exit.
    pub exit: T,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// Bytes that went over the cap.
    pub discarded: usize,
    /// Whether both streams ended before [`Limits::drain`] was over.
    pub complete: bool,
}

/// The FIFOs of one exec. They are removed when this, or the future that collects, is dropped.
#[derive(Debug)]
pub struct ExecIo {
    stdout: Output,
    stderr: Output,
    /// Write ends that keep the FIFOs from being at their end before the shim has opened them.
    keep: Vec<OwnedFd>,
    _directory: Directory,
}

impl ExecIo {
    /// Makes `directory`, which is to be this exec's own, and FIFOs in it.
    ///
    /// # Errors
    /// [`Error::Fifo`] with what the file system said; nothing is left then.
    pub fn prepare(directory: &Path) -> Result<(Self, Stdio)> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::fifo("make directory", directory, source))?;
        let guard = Directory(directory.to_owned());
        let (stdout, keep_stdout) = Output::open(directory, StreamName::Stdout)?;
        let (stderr, keep_stderr) = Output::open(directory, StreamName::Stderr)?;
        let path = |name: StreamName| directory.join(name.as_str()).to_string_lossy().into_owned();
        let stdio = Stdio { stdout: path(StreamName::Stdout), stderr: path(StreamName::Stderr), ..Stdio::default() };
        Ok((Self { stdout, stderr, keep: vec![keep_stdout, keep_stderr], _directory: guard }, stdio))
    }

    /// Tells that the process's Start returned, with whatever result: from now on the end of a
    /// stream is its real end.
    pub fn started(&mut self) {
        self.keep.clear();
    }

    /// Reads both streams until they have ended and `exited` has resolved, but at most for
    /// [`Limits::drain`] after it did. To be polled while the process runs: nobody else
    /// empties its pipes. [`ExecIo::started`] is implied.
    pub async fn collect<T>(mut self, limits: Limits, exited: impl Future<Output = T>) -> Collected<T> {
        self.started();
        let kept = AtomicUsize::new(0);
        let discarded = AtomicUsize::new(0);
        let budget = Budget { cap: limits.cap, kept: &kept, discarded: &discarded };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (exit, complete) = {
            let read = join(self.stdout.read(&mut stdout, budget), self.stderr.read(&mut stderr, budget));
            tokio::pin!(read, exited);
            tokio::select! {
                _ = &mut read => (exited.await, true),
                exit = &mut exited => (exit, tokio::time::timeout(limits.drain, &mut read).await.is_ok()),
            }
        };
        let discarded = discarded.load(Ordering::Relaxed);
        Collected { exit, stdout, stderr, discarded, complete }
    }
}

/// What is left of the cap, for both streams.
#[derive(Clone, Copy)]
struct Budget<'a> {
    cap: usize,
    kept: &'a AtomicUsize,
    discarded: &'a AtomicUsize,
}

impl Budget<'_> {
    /// How many of `count` bytes may be kept. Both streams are read by one task, one at a time.
    fn keep(self, count: usize) -> usize {
        let kept = self.kept.load(Ordering::Relaxed);
        let fits = count.min(self.cap.saturating_sub(kept));
        self.kept.store(kept + fits, Ordering::Relaxed);
        self.discarded.fetch_add(count - fits, Ordering::Relaxed);
        fits
    }

    fn is_spent(self) -> bool {
        self.kept.load(Ordering::Relaxed) >= self.cap
    }
}

#[derive(Debug)]
struct Output {
    pipe: pipe::Receiver,
    name: StreamName,
}

impl Output {
    fn open(directory: &Path, name: StreamName) -> Result<(Self, OwnedFd)> {
        let path = directory.join(name.as_str());
        let fails = |source| Error::fifo("open FIFO", &path, source);
        fifo::make(&path).map_err(|source| Error::fifo("make FIFO", &path, source))?;
        let pipe = fifo::open(&path, End::Read).map_err(fails)?;
        let keep = fifo::open(&path, End::Write).map_err(fails)?;
        let pipe = pipe::Receiver::from_owned_fd(pipe).map_err(fails)?;
        Ok((Self { pipe, name }, keep))
    }

    /// Reads to the end. What was read so far is in `into` when this is dropped.
    async fn read(&self, into: &mut Vec<u8>, budget: Budget<'_>) {
        let mut scratch = Vec::new();
        // Fails only while the runtime shuts down.
        while self.pipe.readable().await.is_ok() {
            match self.read_once(into, &mut scratch, budget) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::warn!(stream = self.name.as_str(), %error, "exec output cannot be read");
                    return;
                }
            }
        }
    }

    fn read_once(&self, into: &mut Vec<u8>, scratch: &mut Vec<u8>, budget: Budget<'_>) -> io::Result<usize> {
        let spent = budget.is_spent();
        let buffer = if spent { scratch } else { into };
        if spent {
            buffer.clear();
            buffer.reserve_exact(DISCARD);
        } else {
            // Doubles what is there: memory follows what was read.
            buffer.reserve(LEAST.max(buffer.len()));
        }
        let before = buffer.len();
        let count = self.pipe.try_io(|| Ok(rustix::io::read(&self.pipe, spare_capacity(buffer))?))?;
        buffer.truncate(before + budget.keep(count));
        Ok(count)
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.0.display(), %error, "exec FIFOs cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests;
