//! One stream: from its FIFO to the log and to whoever is attached.
//!
//! A task waits for bytes; a burst of them is read, formatted and written by one job on a
//! blocking thread, so that a disk that hangs holds up nothing but this stream. Between bursts
//! a stream keeps no memory but the line it is in.

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
use super::{Batch, Chunk, Lines, Stamp, places};
use crate::sys::fifo;

/// Reads in one job: about 1.5 MiB, then other streams have their turn.
const READS: usize = 32;

/// How a burst ended.
#[derive(Debug, PartialEq, Eq)]
enum Burst {
    /// Nothing more to read now.
    Idle,
    /// There may be more.
    More,
    /// The log cannot be opened, and what is there can wait in the pipe.
    Waiting,
    /// Every writer has closed the stream.
    End,
}

/// Where a stream comes from.
pub(super) struct Source {
    /// Its FIFO.
    pub(super) pipe: OwnedFd,
    /// Where within a line the daemon before us left it, and we leave it.
    pub(super) handover: Handover,
}

/// When a stream is not read any more.
pub(super) struct Stop {
    /// Cancelled when it is closed, or the daemon ends.
    pub(super) stream: CancellationToken,
    /// Cancelled when the daemon ends: another one goes on.
    pub(super) daemon: CancellationToken,
}

/// A stream being read.
pub(super) struct Pump {
    pipe: Arc<pipe::Receiver>,
    handover: Handover,
    /// Whether the pipe was read once, after which tokio knows when it is worth another try.
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

    /// Reads to the stream's end, or until it is stopped; what is in memory is written out then. Gives itself back when
    /// the daemon ends and the stream does not.
    pub(super) async fn run(mut self, stop: Stop) -> Option<Self> {
        let pipe = Arc::clone(&self.pipe);
        let mut target = self.log.as_ref().map(LogWriter::target);
        let mut state = Burst::More;
        while state != Burst::End {
            match state {
                Burst::Idle => tokio::select! {
                    () = stop.stream.cancelled() => break,
                    () = switched(&mut target) => {}
                    // Fails only while the runtime shuts down.
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
            (self, state) = job(self, Pump::burst).await?;
        }
        // What only we have open is gone when we let go.
        while state != Burst::End && !fifo::has_writer(&*pipe) {
            (self, state) = job(self, Pump::last_burst).await?;
        }
        match (state, stop.daemon.is_cancelled()) {
            (Burst::End, _) => None,
            (Burst::Idle | Burst::More | Burst::Waiting, true) => Some(job(self, Pump::hand_over).await?.0),
            (Burst::Idle | Burst::More | Burst::Waiting, false) => {
                let _ = job(self, Pump::finish).await;
                None
            }
        }
    }

    /// Blocks on the log, never on the pipe.
    fn burst(&mut self) -> Burst {
        self.burst_if(|pipe| fifo::is_full(pipe).unwrap_or(false))
    }

    /// The same where nothing may be left in the pipe.
    fn last_burst(&mut self) -> Burst {
        self.burst_if(|_| true)
    }

    fn burst_if(&mut self, is_urgent: fn(&pipe::Receiver) -> bool) -> Burst {
        if !self.polled {
            // Not before all streams of the container are open: it is found once only.
            self.handover.resume(&mut self.lines);
        }
        if let Some(log) = &mut self.log {
            log.settle(self.lines.inside());
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
                    self.batch.rest();
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
        // The first read does not ask tokio: a FIFO whose last writer left before we opened it
        // is at its end, but epoll is silent about it.
        let count = if self.polled { self.pipe.try_io(read) } else { read() };
        self.polled = true;
        let count = count?;
        if count > 0 && self.chunks.receiver_count() > 0 {
            let chunk = Chunk { bytes: Bytes::copy_from_slice(&buffer[before..]), stream: self.lines.stream() };
            // Fails when the last subscriber just left.
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
    /// The line in progress goes into the log, and where it is to the next daemon.
    fn hand_over(&mut self) {
        let Some(log) = &mut self.log else { return };
        // A log that could not be opened takes nothing: what is in memory is the next daemon's then.
        if log.is_open() {
            self.stamp.renew();
            self.lines.hand_over(&self.stamp, &mut self.batch);
            log.write(&self.batch);
        }
        if let Err(error) = self.handover.leave(&self.lines) {
            tracing::warn!(stream = self.lines.stream().as_str(), %error, "where a log's line is cannot be left to the next daemon");
        }
    }
}

/// Runs one job of a stream on a blocking thread. None when it panicked: the stream is over.
async fn job<T: Send + 'static>(mut pump: Pump, work: fn(&mut Pump) -> T) -> Option<(Pump, T)> {
    // A stream that waits here waits for its pod's disk.
    let place = places::of_all(pump.log.as_ref().map(LogWriter::share)).await;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        let result = work(&mut pump);
        (pump, result)
    });
    match done.await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "reading container output ended");
            None
        }
    }
}

/// Resolves when the log was reopened.
async fn switched(target: &mut Option<watch::Receiver<Arc<LogFile>>>) {
    match target {
        // An error means that the streams' owner is gone, and stops us.
        Some(target) => match target.changed().await {
            Ok(()) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
