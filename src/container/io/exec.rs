//! The streams of an exec: FIFOs that the shim opens by path, read to their end, or until nobody should wait any
//! longer.
//!
//! Output goes from a FIFO into a buffer of its [`Target`], in the task that asked for it. The read waits for the
//! target, so that a command writes no faster than its output is taken.

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

/// How long after the process's exit its output may stay open: a child that it left in the background holds it.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Between two looks for the shim's end of stdin.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where the output of an exec goes.
pub trait Target: Send {
    /// Waits until more may be read, and makes room in the buffer.
    fn room(&mut self) -> impl Future<Output = ()> + Send;

    /// What is read into.
    fn buffer(&mut self) -> &mut (dyn BufMut + Send);

    /// Takes what was read.
    fn filled(&mut self) -> impl Future<Output = ()> + Send;

    /// Nothing more comes.
    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Which streams an exec has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// A terminal: one output stream.
    pub tty: bool,
    /// An input stream.
    pub stdin: bool,
}

/// The FIFOs of one exec.
#[derive(Debug)]
pub struct ExecIo {
    stdin: Option<PathBuf>,
    /// Until [`Self::terminal_input`] hands it out.
    terminal_input: Option<TerminalInput>,
    stdout: Output,
    /// None with a terminal.
    stderr: Option<Output>,
    /// Ends that keep an output from being at its end before the shim has opened it.
    keep: Vec<OwnedFd>,
}

impl ExecIo {
    /// Makes `directory`, which is to be this exec's own, and FIFOs in it. The directory goes with the guard.
    ///
    /// # Errors
    /// [`Error::Fifo`] with what the file system said; nothing is left then.
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

    /// Takes up the output of an exec that an earlier process of ours began.
    ///
    /// # Errors
    /// [`Error::Fifo`] when its FIFOs are not there.
    pub fn resume(directory: &Path) -> Result<(Self, Directory)> {
        let open = |name: StreamName| Output::open(&directory.join(name.as_str()), name);
        let stderr = directory.join(StreamName::Stderr.as_str()).exists().then(|| open(StreamName::Stderr));
        let stdout = open(StreamName::Stdout)?;
        let io = Self { stdin: None, terminal_input: None, stdout, stderr: stderr.transpose()?, keep: Vec::new() };
        Ok((io, Directory(directory.to_owned())))
    }

    /// Tells that the process's Start returned, with whatever result: from now on the end of a stream is its real
    /// end.
    pub fn started(&mut self) {
        self.keep.clear();
    }

    /// A terminal's stdin, to be held until the process is deleted, and to be released then.
    pub fn terminal_input(&mut self) -> Option<TerminalInput> {
        self.terminal_input.take()
    }

    /// The write end of stdin, once the shim has its own end: it opens that by and by, also after Start has returned. A
    /// FIFO that nobody has open forgets what was written to it, so an end of ours must not stand in for the shim's; but
    /// for a terminal, whose [`Self::terminal_input`] is open for as long as the process is.
    ///
    /// # Errors
    /// [`Error::Fifo`] when it cannot be opened.
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

    /// Copies both streams at once until they have ended, but at most for `drain` after `exited`; the time that a
    /// target takes does not count. To be polled while the process runs: nobody else empties its pipes. True when
    /// both ended.
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
        let mut patience = Patience { exited, drain, until: None };
        loop {
            let ready = tokio::select! {
                // First, or somebody who writes all the time would hold us for ever.
                biased;
                () = patience.over() => return false,
                ready = self.pipe.readable() => ready,
            };
            let asked = Instant::now();
            // Fails only while the runtime shuts down.
            if ready.is_err() || !self.read(target).await {
                target.ended().await;
                return true;
            }
            patience.does_not_count(asked);
        }
    }

    /// One read; false at the end.
    async fn read(&self, target: &mut impl Target) -> bool {
        target.room().await;
        match self.pipe.try_read_buf(&mut target.buffer()) {
            Ok(0) => false,
            Ok(_) => {
                target.filled().await;
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

/// How long somebody waits for the end of a stream whose process has gone.
struct Patience<'a> {
    exited: &'a CancellationToken,
    drain: Duration,
    until: Option<Instant>,
}

impl Patience<'_> {
    /// Resolves when nobody should wait any longer. Safe to be dropped and called again.
    async fn over(&mut self) {
        if self.until.is_none() {
            self.exited.cancelled().await;
            self.until = Some(Instant::now() + self.drain);
        }
        if let Some(until) = self.until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// What the target took is its client's doing, or its turn that had not come.
    fn does_not_count(&mut self, since: Instant) {
        if let Some(until) = &mut self.until {
            *until += since.elapsed();
        }
    }
}

/// A directory that goes with its owner.
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
