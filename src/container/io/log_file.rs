//! The log file: opening, appending, and going on when the disk is full.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::log_path::LogPath;
use super::log_threads::Share;
use super::{Batch, Result};
use crate::mutex::{Mutex, MutexGuard};

/// Counters over all logs of this process, for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    written: AtomicU64,
    dropped_bytes: AtomicU64,
    dropped_records: AtomicU64,
    missed_barriers: AtomicU64,
}

/// The values of [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes written to logs.
    pub written: u64,
    /// Bytes of records that could not be written.
    pub dropped_bytes: u64,
    /// Records of which at least the end was dropped.
    pub dropped_records: u64,
    /// Barriers whose time limit was reached before the streams ended.
    pub missed_barriers: u64,
}

impl Counters {
    /// The current values.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            written: self.written.load(Ordering::Relaxed),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
            dropped_records: self.dropped_records.load(Ordering::Relaxed),
            missed_barriers: self.missed_barriers.load(Ordering::Relaxed),
        }
    }

    pub(super) fn barrier_missed(&self) {
        self.missed_barriers.fetch_add(1, Ordering::Relaxed);
    }
}

/// Time between two attempts to open a log.
pub(super) const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A log to which both streams of a container append.
#[derive(Debug)]
pub(super) struct LogFile {
    path: LogPath,
    /// Limits the threads that may wait for its disk.
    share: Share,
    /// Whether the file was opened. Can be read without waiting for a write.
    opened: AtomicBool,
    /// Locked while writing, so that a record that needs two writes is not cut by the other stream.
    appender: Mutex<Appender>,
    counters: Arc<Counters>,
    /// Set when there is a newer file and streams must not wait for the end of a line any more.
    abandoned: AtomicBool,
    /// Cancelled when the last stream has dropped the file.
    released: CancellationToken,
    _release: DropGuard,
}

#[derive(Debug, Default)]
struct Appender {
    /// `None` as long as it could not be opened.
    file: Option<File>,
    /// When opening was last attempted.
    tried: Option<Instant>,
    /// The file cannot be opened and a FIFO is full: output is read anyway and dropped, because a container must not
    /// wait for its log.
    given_up: bool,
    /// The file ends in the middle of a record, because the disk was full.
    torn: bool,
    /// Records dropped since the last successful write.
    dropped: u64,
}

impl LogFile {
    /// A file that is not opened yet.
    pub(super) fn new(path: &LogPath, counters: &Arc<Counters>) -> Self {
        let released = CancellationToken::new();
        Self {
            path: path.clone(),
            share: Share::of(&path.directory),
            opened: AtomicBool::new(false),
            appender: Mutex::default(),
            counters: Arc::clone(counters),
            abandoned: AtomicBool::new(false),
            _release: released.clone().drop_guard(),
            released,
        }
    }

    /// Opens the file, with a deadline.
    ///
    /// # Errors
    /// As [`LogPath::open`]; [`super::Error::LogStuck`] after the deadline of host paths.
    pub(super) async fn open(&self) -> Result<()> {
        let file = self.path.open_in_time(&self.share).await?;
        self.lock().file = Some(file);
        self.opened.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// Whether a stream of this log should be read now: the file is open, or can be opened now, or `is_full` reports
    /// that the container would wait. Blocks.
    pub(super) fn is_worth_reading(&self, is_full: impl FnOnce() -> bool) -> bool {
        if self.is_open() {
            return true;
        }
        let mut appender = self.lock();
        if appender.file.is_none() && appender.tried.is_none_or(|tried| tried.elapsed() >= OPEN_AGAIN / 2) {
            self.try_open(&mut appender);
        }
        if appender.file.is_none() && !appender.given_up && is_full() {
            appender.given_up = true;
            tracing::warn!(log = %self.path, "output is dropped until the log can be opened: a container must not wait for it");
        }
        appender.file.is_some() || appender.given_up
    }

    fn try_open(&self, appender: &mut Appender) {
        match self.path.open() {
            Ok(file) => {
                if appender.tried.is_some() {
                    tracing::info!(log = %self.path, "the log is open again");
                }
                (appender.file, appender.given_up) = (Some(file), false);
                self.opened.store(true, Ordering::Release);
            }
            Err(error) => {
                if appender.tried.is_none() {
                    let error = &error as &(dyn std::error::Error + 'static);
                    tracing::error!(
                        error,
                        "the log cannot be opened; this is tried again, and output waits in its FIFO"
                    );
                }
            }
        }
        appender.tried = Some(Instant::now());
    }

    /// Cancelled when this file has been closed.
    pub(super) fn released(&self) -> CancellationToken {
        self.released.clone()
    }

    /// Allows streams to leave this file in the middle of a line.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Appends whole records. What cannot be written is dropped and counted: a container must neither wait nor die
    /// because of its log. Blocks as long as the disk does.
    fn append(&self, records: &[u8]) {
        let mut appender = self.lock();
        let (written, outcome) = appender.write(records);
        self.counters.written.fetch_add(written as u64, Ordering::Relaxed);
        let lost = &records[written..];
        let Err(error) = outcome else {
            if appender.dropped > 0 {
                tracing::warn!(log = %self.path, records = appender.dropped, "the log is written again; records were dropped meanwhile");
                appender.dropped = 0;
            }
            return;
        };
        let count = lost.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.counters.dropped_bytes.fetch_add(lost.len() as u64, Ordering::Relaxed);
        self.counters.dropped_records.fetch_add(count, Ordering::Relaxed);
        if appender.dropped == 0 {
            tracing::warn!(log = %self.path, %error, "log cannot be written, records are dropped");
        }
        appender.dropped += count;
    }

    fn lock(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock()
    }
}

impl Appender {
    /// Returns how many bytes were written, and the error if not all were.
    fn write(&mut self, records: &[u8]) -> (usize, io::Result<()>) {
        // Without a file, records are dropped as on a full disk.
        let Some(file) = &mut self.file else { return (0, Err(io::ErrorKind::NotConnected.into())) };
        if self.torn {
            // Ends the record that was cut because the disk was full. Truncating the file instead would move its end
            // while a reader follows it.
            if let (_, Err(error)) = write_all(file, b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let (written, outcome) = write_all(file, records);
        self.torn = written > 0 && records[written - 1] != b'\n';
        (written, outcome)
    }
}

fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Connects one stream to the log: the file it writes to, and the file it should write to.
#[derive(Debug)]
pub(super) struct LogWriter {
    file: Arc<LogFile>,
    target: watch::Receiver<Arc<LogFile>>,
}

impl LogWriter {
    pub(super) fn new(target: &watch::Sender<Arc<LogFile>>) -> Self {
        let target = target.subscribe();
        let file = Arc::clone(&target.borrow());
        Self { file, target }
    }

    /// A receiver that is notified when the log switches to a new file.
    pub(super) fn target(&self) -> watch::Receiver<Arc<LogFile>> {
        self.target.clone()
    }

    /// Limits the threads that may wait for the log.
    pub(super) fn share(&self) -> &Share {
        &self.file.share
    }

    /// Whether the stream should be read now ([`LogFile::is_worth_reading`]).
    pub(super) fn is_worth_reading(&self, is_full: impl FnOnce() -> bool) -> bool {
        self.file.is_worth_reading(is_full)
    }

    /// Whether the current file is open, so that records written now are in the log.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_open()
    }

    /// Writes a batch, and switches to the newer file as soon as the current line allows it.
    pub(super) fn write(&mut self, batch: &Batch) {
        if batch.bytes().is_empty() {
            return;
        }
        let newer = Arc::clone(&self.target.borrow());
        if Arc::ptr_eq(&newer, &self.file) {
            return self.file.append(batch.bytes());
        }
        let (old, new) = batch.split();
        if old.is_empty() || self.file.abandoned.load(Ordering::Acquire) {
            self.file = newer;
            return self.file.append(batch.bytes());
        }
        self.file.append(old);
        if !new.is_empty() {
            self.file = newer;
            self.file.append(new);
        }
    }

    /// Switches to the newer file if nothing has to be written first. `inside` is whether the current file ends
    /// within a line of this stream. A file that was never opened is left at once.
    pub(super) fn settle(&mut self, inside: bool) {
        if !inside || !self.file.is_open() || self.file.abandoned.load(Ordering::Acquire) {
            let newer = Arc::clone(&self.target.borrow());
            self.file = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeWriter;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::broadcast;
    use tokio::task::JoinHandle;

    use super::super::handover::Handover;
    use super::super::pump::{Pump, Source, Stop};
    use super::super::{Error, Lines, StreamName};
    use super::*;
    use crate::tasks::Tasks;

    /// Starts reading a stream of a container: returns the container's end of the pipe, the log, and the reader task.
    async fn stream(log: &Path) -> (PipeWriter, Arc<LogFile>, JoinHandle<()>) {
        let path = LogPath::new(log.to_str().unwrap(), "0.log").unwrap().unwrap();
        let file = Arc::new(LogFile::new(&path, &Arc::default()));
        file.open().await.unwrap();
        let target = watch::Sender::new(Arc::clone(&file));
        let (read, write) = io::pipe().unwrap();
        let lines = Lines::new(StreamName::Stdout, false);
        let source = Source { pipe: read.into(), handover: Handover::of(log, StreamName::Stdout) };
        let pump = Pump::new(source, lines, Some(LogWriter::new(&target)), broadcast::Sender::new(1)).unwrap();
        let reader = Tasks::default().background(async move {
            pump.run(Stop { stream: CancellationToken::new(), daemon: CancellationToken::new() }).await;
            drop(target);
        });
        (write, file, reader)
    }

    /// On a single-threaded runtime, which a blocking write would hold up.
    #[tokio::test]
    async fn a_disk_that_hangs_under_one_log_holds_up_that_stream_alone() {
        let directory = tempfile::tempdir().unwrap();
        let logs = ["stuck", "other"].map(|name| directory.path().join(name));
        let (mut stuck, hanging, stuck_reader) = stream(&logs[0]).await;
        let (mut other, _, other_reader) = stream(&logs[1]).await;
        let ((holds, held), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        let disk = std::thread::spawn(move || {
            let _write = hanging.lock();
            holds.send(()).unwrap();
            let _ = released.recv();
        });
        held.recv().unwrap();
        stuck.write_all(b"waits\n").unwrap();
        other.write_all(b"goes on\n").unwrap();
        drop((stuck, other));
        tokio::time::timeout(Duration::from_secs(10), other_reader).await.expect("it is not held up").unwrap();
        assert!(std::fs::read_to_string(logs[1].join("0.log")).unwrap().ends_with(" stdout F goes on\n"));
        assert!(!stuck_reader.is_finished());
        drop(release);
        stuck_reader.await.unwrap();
        assert!(std::fs::read_to_string(logs[0].join("0.log")).unwrap().ends_with(" stdout F waits\n"));
        disk.join().unwrap();
    }

    #[test]
    fn a_path_that_no_file_system_has_is_refused_before_the_start() {
        let said = |directory: &str, path: &str| LogPath::new(directory, path).unwrap_err().to_string();
        assert!(said("/logs", &"x".repeat(256)).ends_with("has a name of more than 255 bytes"));
        assert!(said("/logs", &"a/".repeat(2046)).ends_with("is a directory"));
        assert!(
            said("/logs", &("a/".repeat(2045) + "b")).ends_with("is longer than 4095 bytes including its directory")
        );
        assert!(LogPath::new("/logs", &("a/".repeat(2044) + "b")).is_ok());
    }

    #[test]
    fn a_path_that_could_leave_is_refused_by_name() {
        for bad in ["../x", "../../../../etc/cron.d/x", "/etc/x", "a/../../x", "a/..", "..", "a\0b", "a/", "."] {
            let error = LogPath::new("/var/log/pods/p", bad).unwrap_err();
            assert!(matches!(error, Error::LogPath { .. }), "{bad}");
            assert!(error.to_string().starts_with("log_path "), "{error}");
        }
        assert!(LogPath::new("logs", "0.log").unwrap_err().to_string().starts_with("log_directory "));
        assert_eq!(LogPath::new("", "0.log").unwrap(), None);
        assert_eq!(LogPath::new("/logs", "").unwrap(), None);
        assert_eq!(LogPath::new("/logs", "c/0.log").unwrap().unwrap().full(), Path::new("/logs/c/0.log"));
    }
}
