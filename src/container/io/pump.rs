//! Moves one stream from its FIFO to the log and to attached clients.
//!
//! A task waits for bytes. One job on a blocking thread then reads, formats and writes a burst of them, so that a
//! disk that hangs delays only this stream. Between bursts a stream holds no memory except its current line.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::handover::Handover;
use super::log_file::{LogFile, LogWriter, OPEN_AGAIN};
use super::{Batch, Chunk, Lines, Stamp, log_threads};
use crate::joined::run_blocking;
use crate::sys::fifo;

/// Maximum reads in one job: about 1.5 MiB. Then other streams get a thread.
const READS: usize = 32;

/// How a burst ended.
#[derive(Debug, PartialEq, Eq)]
enum Burst {
    /// There is nothing more to read now.
    Idle,
    /// There may be more to read.
    More,
    /// The log cannot be opened, and the output can wait in the pipe.
    Waiting,
    /// Every writer has closed the stream.
    End,
}

/// Where a stream comes from.
pub(super) struct Source {
    pub(super) pipe: OwnedFd,
    /// Stores the position within a line at which one daemon stopped and the next one continues.
    pub(super) handover: Handover,
}

/// When to stop reading a stream.
pub(super) struct Stop {
    /// Cancelled when the stream is closed or the daemon ends.
    pub(super) stream: CancellationToken,
    /// Cancelled when the daemon ends, after which another daemon continues.
    pub(super) daemon: CancellationToken,
}

/// A stream that is being read.
pub(super) struct Pump {
    pipe: Arc<pipe::Receiver>,
    handover: Handover,
    /// Whether the pipe was read once. From then on tokio knows when reading it makes sense.
    polled: bool,
    lines: Lines,
    log: Option<LogWriter>,
    chunks: broadcast::Sender<Chunk>,
    stamp: Stamp,
    batch: Batch,
}

impl Pump {
    pub(super) fn new(
        source: Source,
        lines: Lines,
        log: Option<LogWriter>,
        chunks: broadcast::Sender<Chunk>,
    ) -> io::Result<Self> {
        let Source { pipe, handover } = source;
        let pipe = Arc::new(pipe::Receiver::from_owned_fd(pipe)?);
        Ok(Self { pipe, handover, polled: false, lines, log, chunks, stamp: Stamp::now(), batch: Batch::default() })
    }

    /// Reads until the stream ends or is stopped, and then writes what is in memory. Returns itself if the daemon
    /// ends before the stream.
    pub(super) async fn run(mut self, stop: Stop) -> Option<Self> {
        let pipe = Arc::clone(&self.pipe);
        let mut target = self.log.as_ref().map(LogWriter::target);
        let mut state = Burst::More;
        while state != Burst::End {
            match state {
                Burst::Idle => tokio::select! {
                    () = stop.stream.cancelled() => break,
                    () = switched(&mut target) => {}
                    // Fails only while the tokio runtime shuts down.
                    ready = pipe.readable() => if ready.is_err() { break },
                },
                Burst::Waiting => tokio::select! {
                    () = stop.stream.cancelled() => break,
                    () = switched(&mut target) => {}
                    () = tokio::time::sleep(OPEN_AGAIN) => {}
                },
                Burst::More | Burst::End => {}
            }
            if stop.stream.is_cancelled() {
                break;
            }
            (self, state) = job(self, Pump::burst).await;
        }
        // The content of a FIFO that only we have open is lost when we close it.
        while state != Burst::End && !fifo::has_writer(&*pipe) {
            (self, state) = job(self, Pump::last_burst).await;
        }
        match (state, stop.daemon.is_cancelled()) {
            (Burst::End, _) => None,
            (Burst::Idle | Burst::More | Burst::Waiting, true) => Some(job(self, Pump::hand_over).await.0),
            (Burst::Idle | Burst::More | Burst::Waiting, false) => {
                job(self, Pump::finish).await;
                None
            }
        }
    }

    /// Reads one burst. Blocks on the log, never on the pipe.
    fn burst(&mut self) -> Burst {
        self.burst_if(|pipe| fifo::is_full(pipe).unwrap_or(false))
    }

    /// Like `burst`, when nothing may be left in the pipe.
    fn last_burst(&mut self) -> Burst {
        self.burst_if(|_| true)
    }

    fn burst_if(&mut self, is_urgent: fn(&pipe::Receiver) -> bool) -> Burst {
        if !self.polled {
            // Only now, when all streams of the container are open: the file can be read only once.
            self.handover.resume(&mut self.lines);
        }
        if let Some(log) = &mut self.log {
            log.settle(self.lines.in_line());
            if !log.is_worth_reading(|| is_urgent(&self.pipe)) {
                return Burst::Waiting;
            }
        }
        for _ in 0..READS {
            match self.read() {
                Ok(0) => {
                    self.finish();
                    return Burst::End;
                }
                Ok(_) => self.format(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.lines.shrink();
                    self.batch.free();
                    return Burst::Idle;
                }
                Err(error) => {
                    tracing::warn!(stream = self.lines.stream().as_str(), %error, "container output cannot be read");
                    self.finish();
                    return Burst::End;
                }
            }
        }
        Burst::More
    }

    fn read(&mut self) -> io::Result<usize> {
        let buffer = self.lines.space();
        let before = buffer.len();
        let mut read = || Ok(rustix::io::read(&*self.pipe, spare_capacity(buffer))?);
        // The first read bypasses tokio: a FIFO whose last writer closed it before we opened it is at its end, but
        // epoll does not report that.
        let count = if self.polled { self.pipe.try_io(read) } else { read() };
        self.polled = true;
        let count = count?;
        if count > 0 && self.chunks.receiver_count() > 0 {
            let chunk = Chunk { bytes: Bytes::copy_from_slice(&buffer[before..]), stream: self.lines.stream() };
            // Fails if the last subscriber has just left.
            let _ = self.chunks.send(chunk);
        }
        Ok(count)
    }

    fn format(&mut self) {
        let Some(log) = &mut self.log else { return self.lines.discard() };
        self.stamp.renew();
        loop {
            let more = self.lines.records(&self.stamp, &mut self.batch);
            log.write(&self.batch);
            if !more {
                return;
            }
        }
    }

    fn finish(&mut self) {
        if let Some(log) = &mut self.log {
            self.stamp.renew();
            self.lines.finish(&self.stamp, &mut self.batch);
            log.write(&self.batch);
        }
    }
}

impl Pump {
    /// Writes the line in progress to the log, and leaves its position to the next daemon.
    fn hand_over(&mut self) {
        let Some(log) = &mut self.log else { return };
        // Nothing can be written to a log that is not open: what is in memory then goes to the next daemon.
        if log.is_open() {
            self.stamp.renew();
            self.lines.hand_over(&self.stamp, &mut self.batch);
            log.write(&self.batch);
        }
        if let Err(error) = self.handover.leave(&self.lines) {
            tracing::warn!(stream = self.lines.stream().as_str(), %error, "the position within a log line cannot be saved for the next daemon");
        }
    }
}

/// Runs one job of a stream on a blocking thread.
async fn job<T: Send + 'static>(mut pump: Pump, work: fn(&mut Pump) -> T) -> (Pump, T) {
    // A stream that waits here waits for its own pod's disk, or for the limit of all logs.
    let permits = log_threads::permits(pump.log.as_ref().map(LogWriter::share)).await;
    let job = move || {
        let _permits = permits;
        let result = work(&mut pump);
        (pump, result)
    };
    run_blocking(job).await
}

/// Resolves when the log was reopened.
async fn switched(target: &mut Option<watch::Receiver<Arc<LogFile>>>) {
    match target {
        // An error means that the owner of the streams is gone, which stops this stream.
        Some(target) => match target.changed().await {
            Ok(()) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
