//! Container standard streams: who makes the pipes, reads them and writes the CRI log.
//!
//! A [`Driver`] makes [`Streams`] before Tasks.Create and finds them again after a restart.
//! [`Fifo`] reads FIFOs in this process. It knows nothing of a container's state: whether a
//! log may be reopened now is for the verb. It never makes a container wait for anything but its
//! own log: reading, formatting and writing of one stream are one job on a blocking thread.
//!
//! A stream's life:
//! ```text
//! prepare --> held open by us --task_created--> read --EOF-----> drained (barrier is true)
//! reattach ---------------------------------->  read --close---> stopped, FIFOs left as they are
//!                                                    --hand over-> the same, for the next daemon's reattach
//! ```

mod budget;
mod collect;
mod exec;
mod fifo;
mod handover;
mod log_file;
mod log_path;
mod places;
mod pump;
mod record;
mod terminal;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::unix::pipe;
use tokio::sync::broadcast;

pub use budget::{Claim, Lease, PIECE, ReplyBudget};
pub use collect::{Collector, Discard, Kept, REPLY_CAP};
pub use exec::{DRAIN, Directory, ExecIo, Shape, Target};
pub use fifo::{Fifo, SUBSCRIBER_LAG};
pub use log_file::{Counters, Counts};
pub use log_path::LogPath;
pub use record::{Batch, Lines, RECORD_LIMIT, Stamp, StreamName};
pub use terminal::TerminalInput;

use crate::containerd::Stdio;
use crate::ids::ContainerId;

/// What calls of this room give.
pub type Result<T> = std::result::Result<T, Error>;

/// What a container's streams are made from.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    /// Whose they are.
    pub id: ContainerId,
    /// Where the daemon keeps what a reboot may take; FIFOs go to `io/<id>` below it.
    pub state_dir: PathBuf,
    /// Where the log goes; without it output is read and discarded.
    pub log: Option<LogPath>,
    /// One stream with a terminal's line ends instead of two.
    pub tty: bool,
    /// Whether the container has a standard input at all.
    pub stdin: bool,
    /// Whether stdin ends when the first client that attached leaves.
    pub stdin_once: bool,
}

/// Bytes as a container wrote them, for whoever is attached.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Which stream they came from; a terminal's are stdout's.
    pub stream: StreamName,
    /// The bytes of one read.
    pub bytes: Bytes,
}

/// One way to carry streams.
pub trait Driver: Send + Sync {
    /// Makes everything that must be there before Tasks.Create, and starts reading. What it
    /// made is gone again when it fails.
    ///
    /// # Errors
    /// [`Error::LogPath`] for a log path that leaves its directory, [`Error::LogDirectory`] and [`Error::LogSymlink`] for
    /// symlinks, [`Error::LogNotRegular`] for what is in its place, [`Error::LogStuck`] when that does not answer within a
    /// minute, else what the file system said.
    fn prepare(&self, config: StreamsConfig) -> BoxFuture<'_, Result<Arc<dyn Streams>>>;

    /// Finds the streams of a task that lives on while the daemon was away, and goes on
    /// reading. The log is appended to; while it cannot be opened, that is tried again, and output
    /// waits in the FIFOs for as long as they have room.
    ///
    /// # Errors
    /// [`Error::Fifo`] when the FIFOs are gone or cannot be opened.
    fn reattach(&self, config: StreamsConfig) -> BoxFuture<'_, Result<Arc<dyn Streams>>>;

    /// The daemon ends: reading stops everywhere, all that was read is written, and each line in
    /// progress is left for the next daemon's [`Driver::reattach`]. True when all of it was done
    /// within `limit`. Nothing is read any more after this, of new streams neither.
    fn hand_over(&self, limit: Duration) -> BoxFuture<'_, bool>;

    /// Removes what [`Driver::prepare`] left on disk, but not the log. Nothing there is fine.
    ///
    /// # Errors
    /// [`Error::Fifo`] with what the file system said.
    fn remove(&self, state_dir: &Path, id: &ContainerId) -> Result<()>;
}

/// A container's streams while its task lives.
pub trait Streams: Send + Sync {
    /// What Tasks.Create is to be given.
    fn stdio(&self) -> Stdio;

    /// Tells that Tasks.Create returned: from now on the end of a stream is its real end.
    fn task_created(&self);

    /// Makes a new log file at the log's path and goes on there: each stream at the end of the
    /// line it is in, or in the middle of a line that does not end within half a second. After
    /// an error the old file stays in use and no new one is left.
    ///
    /// # Errors
    /// [`Error::Finished`] when every stream has ended; else as [`Driver::prepare`].
    fn reopen_log(&self) -> BoxFuture<'_, Result<()>>;

    /// Waits until every stream has ended and all of it is written, at most for `limit`. False
    /// when it was not so; that is counted.
    fn barrier(&self, limit: Duration) -> BoxFuture<'_, bool>;

    /// Output from now on. A subscriber that does not keep up loses chunks and is told so; it
    /// never slows the log down.
    fn subscribe(&self) -> broadcast::Receiver<Chunk>;

    /// The write end of stdin, while it is open.
    fn stdin(&self) -> Option<Arc<pipe::Sender>>;

    /// Closes our write end of stdin; the container sees the end when all that hold it let go.
    fn close_stdin(&self);

    /// Whether stdin is to be closed when the first client that attached leaves.
    fn stdin_once(&self) -> bool;

    /// Stops reading and writes out the line that is in memory; what nobody but us has open any
    /// more is read to its end first. The FIFOs stay. Returns after at most two seconds.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why streams could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log path in the container's config is not one. An invalid argument.
    #[error("log_path {path:?} {reason}")]
    LogPath {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The log directory in the sandbox's config is not one. An invalid argument.
    #[error("log_directory {path:?} {reason}")]
    LogDirectory {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A component of the log's path is a symlink, which a log never goes through.
    #[error("log file {0:?} is behind a symlink")]
    LogSymlink(PathBuf),
    /// Something else than a file is where the log should be.
    #[error("log file {0:?} is not a regular file")]
    LogNotRegular(PathBuf),
    /// The file system of the log does not answer. The call goes on without us.
    #[error("open log file {0:?}: its file system does not answer")]
    LogStuck(PathBuf),
    /// The log could not be opened.
    #[error("open log file {path:?}")]
    Log {
        /// The log.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A FIFO could not be made, opened or removed.
    #[error("{operation} {path:?}")]
    Fifo {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// All streams have ended; there is nothing to be logged any more.
    #[error("the output of container {0} has ended")]
    Finished(ContainerId),
}

impl Error {
    fn fifo(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Fifo { operation, path: path.to_owned(), source }
    }
}
