//! The streams of an exec: FIFOs that the shim opens by path. They are read until they end, or until a deadline after
//! the process's exit.
//!
//! Output goes from a FIFO directly into a buffer of its [`Target`], in the task that runs the exec. Each read waits
//! for the target, so a command cannot write faster than its output is consumed.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BufMut;
use futures_util::future::join;
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::terminal::TerminalInput;
use super::{Error, Result, StreamName};
use crate::containerd::Stdio;
use crate::sys::fifo::{self, End};

/// How long output may stay open after the process's exit: a child process left in the background may hold it open.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Interval for checking whether the shim has opened its end of stdin.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where the output of an exec goes.
pub trait Target: Send {
    /// Waits until more may be read, and reserves space in the buffer.
    fn reserve(&mut self) -> impl Future<Output = ()> + Send;

    /// The buffer to read into.
    fn buffer(&mut self) -> &mut (dyn BufMut + Send);

    /// Processes the bytes that were read into the buffer.
    fn consume(&mut self) -> impl Future<Output = ()> + Send;

    /// Called when the stream has ended.
    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Which streams an exec has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// A terminal: one output stream.
    pub tty: bool,
    pub stdin: bool,
}

/// The FIFOs of one exec.
#[derive(Debug)]
pub struct ExecIo {
    stdin: Option<PathBuf>,
    /// Set until [`Self::terminal_input`] takes it.
    terminal_input: Option<TerminalInput>,
    stdout: Output,
    /// `None` with a terminal.
    stderr: Option<Output>,
    /// Ends that prevent an output from reaching its end before the shim has opened it.
    keep: Vec<OwnedFd>,
}

impl ExecIo {
    /// Creates `directory`, which must be used by this exec only, and FIFOs in it. Dropping the guard removes the
    /// directory.
    ///
    /// # Errors
    /// [`Error::Fifo`] with the file system's error; nothing remains on disk.
    pub fn prepare(directory: &Path, shape: Shape) -> Result<(Self, Stdio, Directory)> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::fifo("make directory", directory, source))?;
        let guard = Directory(directory.to_owned());
        let (io, stdio) = Self::open(directory, shape)?;
        Ok((io, stdio, guard))
    }

    fn open(directory: &Path, shape: Shape) -> Result<(Self, Stdio)> {
        let mut keep = Vec::with_capacity(3);
        let make = |name: &str| -> Result<PathBuf> {
            let path = directory.join(name);
            fifo::make(&path).map_err(|source| Error::fifo("make FIFO", &path, source))?;
            Ok(path)
        };
        let unopened = |path: &Path, source| Error::fifo("open FIFO", path, source);
        let mut output = |name: StreamName| -> Result<(Output, String)> {
            let path = make(name.as_str())?;
            let ends = fifo::open(&path, End::Both).map_err(|source| unopened(&path, source))?;
            fifo::enlarge(&ends);
            keep.push(ends);
            Ok((Output::open(&path, name)?, text(&path)))
        };
        let (stdout, stdout_path) = output(StreamName::Stdout)?;
        let stderr = (!shape.tty).then(|| output(StreamName::Stderr)).transpose()?;
        let (stderr, stderr_path) = stderr.map_or((None, String::new()), |(output, path)| (Some(output), path));
        let stdin = shape.stdin.then(|| make("stdin")).transpose()?;
        let terminal_input = match &stdin {
            Some(path) if shape.tty => Some(TerminalInput::open(path).map_err(|source| unopened(path, source))?),
            _ => None,
        };
        let stdio = Stdio {
            stdin: stdin.as_deref().map(text).unwrap_or_default(),
            stdout: stdout_path,
            stderr: stderr_path,
            terminal: shape.tty,
        };
        Ok((Self { stdin, terminal_input, stdout, stderr, keep }, stdio))
    }

    /// Continues to read the output of an exec that an earlier daemon process started.
    ///
    /// # Errors
    /// [`Error::Fifo`] if its FIFOs do not exist.
    pub fn resume(directory: &Path) -> Result<(Self, Directory)> {
        let open = |name: StreamName| Output::open(&directory.join(name.as_str()), name);
        let stderr = directory.join(StreamName::Stderr.as_str()).exists().then(|| open(StreamName::Stderr));
        let stdout = open(StreamName::Stdout)?;
        let io = Self { stdin: None, terminal_input: None, stdout, stderr: stderr.transpose()?, keep: Vec::new() };
        Ok((io, Directory(directory.to_owned())))
    }

    /// To be called when the process's Start has returned, with whatever result: from then on, the end of a stream is
    /// its real end.
    pub fn started(&mut self) {
        self.keep.clear();
    }

    /// A terminal's stdin, to be held open until the process is deleted, and released then.
    pub fn terminal_input(&mut self) -> Option<TerminalInput> {
        self.terminal_input.take()
    }

    /// Opens the write end of stdin once the shim has opened its own end, which may happen only after Start has
    /// returned. A FIFO that no process has open loses what was written to it, so we must not hold a read end in place
    /// of the shim's. With a terminal we do: [`Self::terminal_input`] stays open as long as the process exists.
    ///
    /// # Errors
    /// [`Error::Fifo`] if it cannot be opened.
    pub async fn open_stdin(&self) -> Result<Option<pipe::Sender>> {
        let Some(path) = &self.stdin else { return Ok(None) };
        loop {
            match fifo::open(path, End::Write).and_then(pipe::Sender::from_owned_fd) {
                Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                opened => return opened.map(Some).map_err(|source| Error::fifo("open FIFO", path, source)),
            }
        }
    }

    /// Copies both streams concurrently until they have ended, but at most for `drain` after `exited`. Time spent in
    /// a target does not count. Must be polled while the process runs, because nothing else empties its pipes. True
    /// if both streams ended.
    pub async fn copy(
        &self,
        stdout: &mut impl Target,
        stderr: &mut impl Target,
        exited: &CancellationToken,
        drain: Duration,
    ) -> bool {
        let errors = async {
            match &self.stderr {
                Some(output) => output.copy(stderr, exited, drain).await,
                None => true,
            }
        };
        let (out, err) = join(self.stdout.copy(stdout, exited, drain), errors).await;
        out && err
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[derive(Debug)]
struct Output {
    pipe: pipe::Receiver,
    name: StreamName,
}

impl Output {
    fn open(path: &Path, name: StreamName) -> Result<Self> {
        let opened = fifo::open(path, End::Read).and_then(pipe::Receiver::from_owned_fd);
        Ok(Self { pipe: opened.map_err(|source| Error::fifo("open FIFO", path, source))?, name })
    }

    async fn copy(&self, target: &mut impl Target, exited: &CancellationToken, drain: Duration) -> bool {
        let mut deadline = DrainDeadline { exited, drain, until: None };
        loop {
            let ready = tokio::select! {
                // First, because a process that writes constantly would otherwise keep this loop running forever.
                biased;
                () = deadline.over() => return false,
                ready = self.pipe.readable() => ready,
            };
            let asked = Instant::now();
            // Fails only while the tokio runtime shuts down.
            if ready.is_err() || !self.read(target).await {
                target.ended().await;
                return true;
            }
            deadline.exclude(asked);
        }
    }

    /// Makes one read; false at the end of the stream.
    async fn read(&self, target: &mut impl Target) -> bool {
        target.reserve().await;
        match self.pipe.try_read_buf(&mut target.buffer()) {
            Ok(0) => false,
            Ok(_) => {
                target.consume().await;
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => true,
            Err(error) => {
                tracing::warn!(stream = self.name.as_str(), %error, "exec output cannot be read");
                false
            }
        }
    }
}

/// How long to wait for the end of a stream whose process has exited.
struct DrainDeadline<'a> {
    exited: &'a CancellationToken,
    drain: Duration,
    until: Option<Instant>,
}

impl DrainDeadline<'_> {
    /// Resolves when the wait is over. Safe to drop and call again.
    async fn over(&mut self) {
        if self.until.is_none() {
            self.exited.cancelled().await;
            self.until = Some(Instant::now() + self.drain);
        }
        if let Some(until) = self.until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Excludes time spent in a target, which is the client's fault or a wait for the reply budget.
    fn exclude(&mut self, since: Instant) {
        if let Some(until) = &mut self.until {
            *until += since.elapsed();
        }
    }
}

/// Removes the directory when it is dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

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
