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
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::log_file::{LogFile, LogWriter};
use super::{Batch, Chunk, Lines, Stamp};

/// Reads in one job: about 1.5 MiB, then other streams have their turn.
const READS: usize = 32;

/// Jobs that may hold a blocking thread at once, of the 512 that tokio has: a disk that
/// hangs under every log must leave threads for everything else.
static WRITERS: Semaphore = Semaphore::const_new(256);

/// How a burst ended.
#[derive(Debug, PartialEq, Eq)]
enum Burst {
    /// Nothing more to read now.
    Idle,
    /// There may be more.
    More,
    /// Every writer has closed the stream.
    End,
}

/// A stream being read.
pub(super) struct Pump {
    pipe: Arc<pipe::Receiver>,
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
        pipe: OwnedFd,
        lines: Lines,
        log: Option<LogWriter>,
        chunks: broadcast::Sender<Chunk>,
    ) -> io::Result<Self> {
        let pipe = Arc::new(pipe::Receiver::from_owned_fd(pipe)?);
        Ok(Self { pipe, polled: false, lines, log, chunks, stamp: Stamp::now(), batch: Batch::default() })
    }

    /// Reads to the stream's end, or until it is stopped; what is in memory is written out then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let pipe = Arc::clone(&self.pipe);
        let mut target = self.log.as_ref().map(LogWriter::target);
        let mut state = Burst::More;
        while state != Burst::End {
            if state == Burst::Idle {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = switched(&mut target) => {}
                    // Fails only while the runtime shuts down.
                    ready = pipe.readable() => if ready.is_err() { break },
                }
            } else if stop.is_cancelled() {
                break;
            }
            let Some(next) = job(self, Pump::burst).await else { return };
            (self, state) = next;
        }
        if state != Burst::End {
            let _ = job(self, Pump::finish).await;
        }
    }

    /// Blocks on the log, never on the pipe.
    fn burst(&mut self) -> Burst {
        if let Some(log) = &mut self.log {
            log.settle(self.lines.inside());
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
                    self.lines.rest();
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

/// Runs one job of a stream on a blocking thread. None when it panicked: the stream is over.
async fn job<T: Send + 'static>(mut pump: Pump, work: fn(&mut Pump) -> T) -> Option<(Pump, T)> {
    // Never closed; and a stream that waits here waits for a disk, as do all the others.
    let _permit = WRITERS.acquire().await.ok();
    let done = tokio::task::spawn_blocking(move || {
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
