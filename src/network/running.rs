//! Whether a plugin still runs for a sandbox, whoever started it.
//!
//! The plugins of a daemon that was killed go on. An ADD that ends after our DEL leaves an address taken for ever, and two
//! that change iptables at once fail. So a plugin's stderr is a FIFO with the sandbox's name: it has a writer as long as one
//! runs, and what is there when a DEL begins is what was interrupted. It costs no search of /proc, and no pid can
//! be another's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{copy, sink};
use tokio::net::unix::pipe::{self, Receiver};
use tokio::time::timeout;

use crate::sys::fifo::{self, End};

/// How long a DEL waits for an interrupted plugin. Longer than any takes that is well; one that hangs, or has left a process
/// behind that keeps its stderr, must not keep the sandbox.
const PATIENCE: Duration = Duration::from_secs(30);

/// The directory of the FIFOs, on a file system that a reboot empties.
pub(super) struct Running {
    dir: PathBuf,
}

impl Running {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// A pipe for the stderr of a plugin: our end and its. Without a name, and so unknown to a successor, for a plugin that
    /// runs for no sandbox, or when the FIFO cannot be made: a full disk must not keep a DEL from giving an address back.
    pub(super) fn stderr(&self, id: Option<&str>) -> io::Result<(Receiver, OwnedFd)> {
        if let Some(id) = id {
            match self.named(id) {
                Ok(ends) => return Ok(ends),
                Err(error) => {
                    tracing::warn!(id, %error, "a cni plugin that outlives this daemon will not be waited for")
                }
            }
        }
        let (theirs, ours) = pipe::pipe()?;
        Ok((ours, theirs.into_blocking_fd()?))
    }

    fn named(&self, id: &str) -> io::Result<(Receiver, OwnedFd)> {
        let path = self.dir.join(id);
        match fifo::make(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.dir)?;
                fifo::make(&path)?;
            }
            made => made?,
        }
        let ours = Receiver::from_owned_fd(fifo::open(&path, End::Read)?)?;
        let theirs = pipe::Sender::from_owned_fd(fifo::open(&path, End::Write)?)?;
        Ok((ours, theirs.into_blocking_fd()?))
    }

    /// The plugin has ended, and was seen to.
    pub(super) fn forget(&self, id: Option<&str>) {
        if let Some(id) = id {
            let _ = std::fs::remove_file(self.dir.join(id));
        }
    }

    /// Waits for a plugin that was interrupted: its daemon was killed, or its caller went away.
    pub(super) async fn ended(&self, id: &str) {
        let interrupted = match self.writers(id) {
            Ok(fifo) => fifo,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return tracing::warn!(id, %error, "cannot tell whether an interrupted cni plugin still runs"),
        };
        tracing::info!(id, "a cni plugin was interrupted, its end is waited for");
        match timeout(PATIENCE, until_silent(interrupted)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(id, %error, "the end of an interrupted cni plugin cannot be waited for"),
            Err(_) => tracing::warn!(id, after = ?PATIENCE, "an interrupted cni plugin still runs, DEL runs beside it"),
        }
        self.forget(Some(id));
    }

    fn writers(&self, id: &str) -> io::Result<Receiver> {
        let path = self.dir.join(id);
        let fifo = Receiver::from_owned_fd(fifo::open(&path, End::Read)?)?;
        // poll(2) tells of the end only to who has seen a writer: here is one.
        drop(fifo::open(&path, End::Write)?);
        Ok(fifo)
    }
}

async fn until_silent(mut fifo: Receiver) -> io::Result<()> {
    copy(&mut fifo, &mut sink()).await.map(drop)
}
