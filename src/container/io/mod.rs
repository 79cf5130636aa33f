//! Standard streams of containers: creates the pipes, reads them and writes the CRI log.
//!
//! A [`Driver`] creates [`Streams`] before Tasks.Create and finds them again after a restart. [`Fifo`] is the driver
//! that reads FIFOs in this process. It does not know the container's state: the verb decides whether a log may be
//! reopened now. A container never waits for anything but its own log: reading, formatting and writing of one stream
//! are one job on a blocking thread.
//!
//! The states of a stream:
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
mod log_threads;
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
pub use collect::{Collector, Discard, KeptOutput, REPLY_CAP};
pub use exec::{DRAIN, Directory, ExecIo, Shape, Target};
pub use fifo::{Fifo, SUBSCRIBER_LAG};
pub use log_file::{Counters, Counts};
pub use log_path::LogPath;
pub use record::{Batch, Lines, RECORD_LIMIT, Stamp, StreamName};
pub use terminal::TerminalInput;

use crate::containerd::Stdio;
use crate::ids::ContainerId;

pub type Result<T> = std::result::Result<T, Error>;

/// The parameters of a container's streams.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    /// The container's id.
    pub id: ContainerId,
    /// The daemon's state directory, which need not survive a reboot. The FIFOs are in `io/<id>` below it.
    pub state_dir: PathBuf,
    /// Where the log is; if `None`, output is read and discarded.
    pub log: Option<LogPath>,
    /// One stream with a terminal's line ends instead of two.
    pub tty: bool,
    /// Whether the container has a standard input at all.
    pub stdin: bool,
    /// Whether stdin is closed when the first attached client leaves.
    pub stdin_once: bool,
}

/// Bytes as a container wrote them, for attached clients.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The stream they came from; a terminal's output is stdout.
    pub stream: StreamName,
    /// The bytes of one read.
    pub bytes: Bytes,
}

/// A way to transport streams.
pub trait Driver: Send + Sync {
    /// Creates everything that must exist before Tasks.Create, and starts reading. If it fails, nothing that it
    /// created remains.
    ///
    /// # Errors
    /// [`Error::LogPath`] for a log path that leaves its directory, [`Error::LogDirectory`] and [`Error::LogSymlink`]
    /// for symlinks, [`Error::LogNotRegular`] if something other than a regular file is at the path,
    /// [`Error::LogStuck`] if its file system does not answer within a minute, otherwise the file system's error.
    fn prepare(&self, config: StreamsConfig) -> BoxFuture<'_, Result<Arc<dyn Streams>>>;

    /// Finds the streams of a task that continued while no daemon was running, and continues to read them. The log is
    /// appended to. If the log cannot be opened, opening is retried; until then output waits in the FIFOs as long as
    /// they are not full.
    ///
    /// # Errors
    /// [`Error::Fifo`] if the FIFOs do not exist or cannot be opened.
    fn reattach(&self, config: StreamsConfig) -> BoxFuture<'_, Result<Arc<dyn Streams>>>;

    /// Called when the daemon ends: stops reading everywhere, writes everything that was read, and leaves each line
    /// in progress for [`Driver::reattach`] of the next daemon. True if this finished within `limit`. Afterwards
    /// nothing is read, not even from new streams.
    fn hand_over(&self, limit: Duration) -> BoxFuture<'_, bool>;

    /// Removes what [`Driver::prepare`] created on disk, except the log. It is no error if nothing exists.
    ///
    /// # Errors
    /// [`Error::Fifo`] with the file system's error.
    fn remove(&self, state_dir: &Path, id: &ContainerId) -> Result<()>;
}

/// A container's streams while its task exists.
pub trait Streams: Send + Sync {
    /// The paths to pass to Tasks.Create.
    fn stdio(&self) -> Stdio;

    /// To be called when Tasks.Create has returned: from then on, the end of a stream is its real end.
    fn task_created(&self);

    /// Creates a new log file at the log's path and continues there: each stream at the end of its current line, or
    /// in the middle of a line that does not end within half a second. After an error the old file stays in use and
    /// no new one remains.
    ///
    /// # Errors
    /// [`Error::Finished`] if every stream has ended; otherwise as for [`Driver::prepare`].
    fn reopen_log(&self) -> BoxFuture<'_, Result<()>>;

    /// Waits until every stream has ended and everything is written, at most for `limit`. False if the limit was
    /// reached, which is also counted.
    fn barrier(&self, limit: Duration) -> BoxFuture<'_, bool>;

    /// Receives output from now on. A subscriber that is too slow loses chunks and gets an error that says so; it
    /// never slows the log down.
    fn subscribe(&self) -> broadcast::Receiver<Chunk>;

    /// The write end of stdin, while it is open.
    fn stdin(&self) -> Option<Arc<pipe::Sender>>;

    /// Closes our write end of stdin. The container reads the end when all other holders have closed theirs.
    fn close_stdin(&self);

    /// Whether stdin is to be closed when the first attached client leaves.
    fn stdin_once(&self) -> bool;

    /// Stops reading and writes the line that is in memory. A FIFO that no other process has open is first read to
    /// its end. The FIFOs stay. Returns after at most two seconds.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why streams could not be created or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log path in the container's config is invalid.
    #[error("log_path {path:?} {reason}")]
    LogPath {
        /// As in the config.
        path: PathBuf,
        reason: &'static str,
    },
    /// The log directory in the sandbox's config is invalid.
    #[error("log_directory {path:?} {reason}")]
    LogDirectory {
        /// As in the config.
        path: PathBuf,
        reason: &'static str,
    },
    /// A component of the log's path is a symlink, which is never followed for a log.
    #[error("log file {0:?} is behind a symlink")]
    LogSymlink(PathBuf),
    /// Something other than a regular file is at the log's path.
    #[error("log file {0:?} is not a regular file")]
    LogNotRegular(PathBuf),
    /// The log's file system does not answer. The thread is still in the call.
    #[error("open log file {0:?}: its file system does not answer")]
    LogStuck(PathBuf),
    /// The log could not be opened.
    #[error("open log file {path:?}")]
    Log {
        /// The full path of the log.
        path: PathBuf,
        source: io::Error,
    },
    /// A FIFO could not be created, opened or removed.
    #[error("{operation} {path:?}")]
    Fifo {
        /// For example `open FIFO`.
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// All streams have ended, so there is nothing more to log.
    #[error("the output of container {0} has ended")]
    Finished(ContainerId),
}

impl Error {
    fn fifo(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Fifo { operation, path: path.to_owned(), source }
    }
}
