//! FIFOs: named pipes that containerd's shim opens by path and this process reads.
//!
//! The shim opens each FIFO for both reading and writing. So a container does not notice when the daemon dies, and
//! nothing in the pipe is lost; the container waits once the pipe is full. The shim requires paths for both stdout
//! and stderr or for neither, and with a terminal only for stdout.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::handover::Handover;
use super::log_file::{LogFile, LogWriter};
use super::pump::{Pump, Source, Stop};
use super::{Chunk, Counters, Error, Lines, LogPath, Result, StreamName, StreamsConfig};
use crate::containerd::Stdio;
use crate::ids::ContainerId;
use crate::mutex::Mutex;
use crate::sys::fifo::{self, End};
use crate::tasks::Tasks;

/// How many reads a subscriber may fall behind; each is at most 64 KiB.
pub const SUBSCRIBER_LAG: usize = 16;
/// How long a reopened log waits for the end of a line.
const LINE_END: Duration = Duration::from_millis(500);
/// How long a close waits for the last write.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Creates, reads and removes the FIFOs of containers.
#[derive(Debug, Default)]
pub struct Fifo {
    tasks: Tasks,
    counters: Arc<Counters>,
    /// Cancelled when the daemon ends.
    leaving: CancellationToken,
    /// Tracks the streams being read, including those of containers that are still being started.
    reading: TaskTracker,
}

impl Fifo {
    /// Runs the readers as tasks of `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { tasks, ..Self::default() }
    }

    /// Counters over all logs.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Creates everything that must exist before Tasks.Create, and starts reading. If it fails, nothing that it
    /// created remains.
    ///
    /// # Errors
    /// [`Error::LogPath`] for a log path that leaves its directory, [`Error::LogDirectory`] and [`Error::LogSymlink`]
    /// for symlinks, [`Error::LogNotRegular`] if something other than a regular file is at the path,
    /// [`Error::LogStuck`] if its file system does not answer within a minute, otherwise the file system's error.
    pub async fn prepare(&self, config: StreamsConfig) -> Result<Arc<Streams>> {
        let (state_dir, id) = (config.state_dir.clone(), config.id.clone());
        let made = match make(&config) {
            Ok(keep) => match self.open_log(&config).await {
                Ok(log) => self.open(config, keep, log),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if made.is_err() {
            // The error to report is the first one; the next prepare replaces anything left over.
            let _ = self.remove(&state_dir, &id);
        }
        made
    }

    /// Finds the streams of a task that continued while no daemon was running, and continues to read them. The log is
    /// appended to. If the log cannot be opened, opening is retried; until then output waits in the FIFOs as long as
    /// they are not full.
    ///
    /// # Errors
    /// [`Error::Fifo`] if the FIFOs do not exist or cannot be opened.
    pub fn reattach(&self, config: StreamsConfig) -> Result<Arc<Streams>> {
        // The reader opens the log: it may be on a disk that hangs, which must not keep the daemon from starting.
        let log = config.log.as_ref().map(|path| LogFile::new(path, &self.counters));
        self.open(config, Vec::new(), log)
    }

    /// Called when the daemon ends: stops reading everywhere, writes everything that was read, and leaves each line
    /// in progress for [`Fifo::reattach`] of the next daemon. True if this finished within `limit`. Afterwards nothing
    /// is read, not even from new streams.
    pub async fn hand_over(&self, limit: Duration) -> bool {
        self.leaving.cancel();
        self.reading.close();
        tokio::time::timeout(limit, self.reading.wait()).await.is_ok()
    }

    /// Removes what [`Fifo::prepare`] created on disk, except the log. It is no error if nothing exists.
    ///
    /// # Errors
    /// [`Error::Fifo`] with the file system's error.
    pub fn remove(&self, state_dir: &Path, id: &ContainerId) -> Result<()> {
        let path = directory(state_dir, id);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::fifo("remove FIFOs in", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn open_log(&self, config: &StreamsConfig) -> Result<Option<LogFile>> {
        match &config.log {
            Some(path) => Ok(Some(open_log(path, &self.counters).await?)),
            None => Ok(None),
        }
    }

    fn open(&self, config: StreamsConfig, keep: Vec<OwnedFd>, log: Option<LogFile>) -> Result<Arc<Streams>> {
        let directory = directory(&config.state_dir, &config.id);
        // The write end of stdin cannot be opened if the shim has closed its read end. The container then has no
        // stdin any more.
        let stdin = if config.stdin { open_stdin(&directory)? } else { None };
        let log = log.map(|log| watch::Sender::new(Arc::new(log)));
        let (chunks, stop) = (broadcast::Sender::new(SUBSCRIBER_LAG), self.leaving.child_token());
        let names = output_names(config.tty);
        let mut pumps = Vec::with_capacity(names.len());
        for &name in names {
            let path = directory.join(name.as_str());
            let fails = |source| Error::fifo("open FIFO", &path, source);
            let pipe = fifo::open(&path, End::Read).map_err(fails)?;
            let writer = log.as_ref().map(LogWriter::new);
            let source = Source { pipe, handover: Handover::of(&directory, name) };
            pumps.push(Pump::new(source, Lines::new(name, config.tty), writer, chunks.clone()).map_err(fails)?);
        }
        let live = watch::Sender::new(pumps.len());
        for pump in pumps {
            let (live, reading) = (live.clone(), self.reading.token());
            let stop = Stop { stream: stop.clone(), daemon: self.leaving.clone() };
            self.tasks.background(async move {
                let left = pump.run(stop).await;
                drop(reading);
                if left.is_some() {
                    // Keep the FIFO open, and do not count the stream as ended while this process runs: if the
                    // container ends now, its log is incomplete, and the next daemon has to report its exit.
                    std::future::pending::<()>().await;
                }
                live.send_modify(|count| *count -= 1);
            });
        }
        Ok(Arc::new(Streams {
            stdio: stdio(&directory, &config),
            live: live.subscribe(),
            log,
            chunks,
            keep: Mutex::new(keep),
            stdin: Mutex::new(stdin),
            reopening: tokio::sync::Mutex::new(()),
            counters: Arc::clone(&self.counters),
            stop: stop.clone(),
            _stop_on_drop: stop.drop_guard(),
            config,
        }))
    }
}

/// A container's streams while its task exists.
pub struct Streams {
    config: StreamsConfig,
    stdio: Stdio,
    /// The file that every stream should write to.
    log: Option<watch::Sender<Arc<LogFile>>>,
    chunks: broadcast::Sender<Chunk>,
    /// Ends that prevent a FIFO from reaching its end before the shim has opened it.
    keep: Mutex<Vec<OwnedFd>>,
    stdin: Mutex<Option<Arc<pipe::Sender>>>,
    /// How many streams have not ended.
    live: watch::Receiver<usize>,
    /// Allows one reopening at a time: each waits for its own old file.
    reopening: tokio::sync::Mutex<()>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Streams {
    /// The paths to pass to Tasks.Create.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        self.stdio.clone()
    }

    /// To be called when Tasks.Create has returned: from then on, the end of a stream is its real end.
    pub fn task_created(&self) {
        self.keep.lock().clear();
    }

    /// Creates a new log file at the log's path and continues there: each stream at the end of its current line, or
    /// in the middle of a line that does not end within half a second. After an error the old file stays in use and
    /// no new one remains.
    ///
    /// # Errors
    /// [`Error::Finished`] if every stream has ended; otherwise as for [`Fifo::prepare`].
    pub async fn reopen_log(&self) -> Result<()> {
        let Some(log) = (self.config.log.as_ref()).zip(self.log.as_ref()) else { return Ok(()) };
        let (path, target) = log;
        let _one = self.reopening.lock().await;
        if *self.live.borrow() == 0 {
            return Err(Error::Finished(self.config.id.clone()));
        }
        let newer = Arc::new(open_log(path, &self.counters).await?);
        let (old, released) = {
            // Only the streams may keep a reference: the old file counts as released when they have dropped theirs.
            let old = target.send_replace(newer);
            (Arc::downgrade(&old), old.released())
        };
        let switched = tokio::time::timeout(LINE_END, released.cancelled()).await.is_ok();
        if let Some(old) = old.upgrade().filter(|_| !switched) {
            // A line does not end, or a write hangs.
            old.abandon();
            target.send_modify(|_| {});
        }
        Ok(())
    }

    /// Waits until every stream has ended and everything is written, at most for `limit`. False if the limit was
    /// reached, which is also counted.
    pub async fn barrier(&self, limit: Duration) -> bool {
        let ended = self.all_ended(limit).await;
        if !ended {
            self.counters.barrier_missed();
        }
        ended
    }

    /// Receives output from now on. A subscriber that is too slow loses chunks and gets an error that says so; it
    /// never slows the log down.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Chunk> {
        self.chunks.subscribe()
    }

    /// The write end of stdin, while it is open.
    #[must_use]
    pub fn stdin(&self) -> Option<Arc<pipe::Sender>> {
        self.stdin.lock().clone()
    }

    /// Closes our write end of stdin. The container reads the end when all other holders have closed theirs.
    pub fn close_stdin(&self) {
        *self.stdin.lock() = None;
    }

    /// Whether stdin is to be closed when the first attached client leaves.
    #[must_use]
    pub fn stdin_once(&self) -> bool {
        self.config.stdin_once
    }

    /// Stops reading and writes the line that is in memory. A FIFO that no other process has open is first read to
    /// its end. The FIFOs stay. Returns after at most two seconds.
    pub async fn close(&self) {
        self.stop.cancel();
        if !self.all_ended(CLOSE_LIMIT).await {
            tracing::warn!("the log's last write did not end in time");
        }
    }

    async fn all_ended(&self, limit: Duration) -> bool {
        let mut live = self.live.clone();
        // The sender is dropped when the last stream has ended, after it counted down.
        tokio::time::timeout(limit, live.wait_for(|&count| count == 0)).await.is_ok_and(|ended| ended.is_ok())
    }
}

fn directory(state_dir: &Path, id: &ContainerId) -> PathBuf {
    state_dir.join("io").join(id.as_str())
}

fn output_names(tty: bool) -> &'static [StreamName] {
    if tty { &[StreamName::Stdout] } else { &[StreamName::Stdout, StreamName::Stderr] }
}

fn stdio(directory: &Path, config: &StreamsConfig) -> Stdio {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    Stdio {
        stdin: if config.stdin { path("stdin") } else { String::new() },
        stdout: path("stdout"),
        stderr: if config.tty { String::new() } else { path("stderr") },
        terminal: config.tty,
    }
}

/// Creates the FIFOs. Returns the ends that must stay open until the shim has opened its own: a read end that never
/// had a writer is at its end, and stdin cannot be opened for writing without a reader.
fn make(config: &StreamsConfig) -> Result<Vec<OwnedFd>> {
    use std::os::unix::fs::DirBuilderExt as _;
    let directory = directory(&config.state_dir, &config.id);
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(&directory);
    made.map_err(|source| Error::fifo("make directory", &directory, source))?;
    let stdin = config.stdin.then_some("stdin");
    let names = output_names(config.tty).iter().map(|name| name.as_str()).chain(stdin);
    let open = |name| {
        let path = directory.join(name);
        fifo::make(&path).map_err(|source| Error::fifo("make FIFO", &path, source))?;
        let end = fifo::open(&path, End::Both).map_err(|source| Error::fifo("open FIFO", &path, source))?;
        fifo::enlarge(&end);
        Ok(end)
    };
    names.map(open).collect()
}

fn open_stdin(directory: &Path) -> Result<Option<Arc<pipe::Sender>>> {
    let path = directory.join("stdin");
    let fails = |source| Error::fifo("open FIFO", &path, source);
    match fifo::open(&path, End::Write) {
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
        opened => {
            let sender = opened.and_then(pipe::Sender::from_owned_fd).map_err(fails)?;
            Ok(Some(Arc::new(sender)))
        }
    }
}

async fn open_log(path: &LogPath, counters: &Arc<Counters>) -> Result<LogFile> {
    let log = LogFile::new(path, counters);
    log.open().await?;
    Ok(log)
}

#[cfg(test)]
mod tests;
