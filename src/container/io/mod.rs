//! Standard streams of containers: creates the pipes, reads them and writes the CRI log.
//!
//! [`Fifo`] creates [`Streams`] before Tasks.Create and finds them again after a restart. It does not know the
//! container's state: the verb decides whether a log may be reopened now. A container never waits for anything but its
//! own log: reading, formatting and writing of one stream are one job on a blocking thread.
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

use bytes::Bytes;

pub use budget::{Claim, Lease, PIECE, ReplyBudget};
pub use collect::{Collector, Discard, KeptOutput, REPLY_CAP};
pub use exec::{DRAIN, Directory, ExecIo, Shape, Target};
pub use fifo::{Fifo, SUBSCRIBER_LAG, Streams};
pub use log_file::{Counters, Counts};
pub use log_path::LogPath;
pub use record::{Batch, Lines, RECORD_LIMIT, Stamp, StreamName};
pub use terminal::TerminalInput;

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
