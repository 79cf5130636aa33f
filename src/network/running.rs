//! Detects whether a plugin still runs for a sandbox, whichever daemon started it.
//!
//! The plugins of a killed daemon keep running. An ADD that finishes after our DEL leaves an address allocated forever,
//! and two plugins that change iptables at the same time fail. Therefore a plugin's stderr is a FIFO named after the
//! sandbox: it has a writer as long as a plugin runs, and a FIFO that exists when a DEL begins belongs to a plugin that
//! was interrupted. This needs no search of /proc, and no pid that may have been reused.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{copy, sink};
use tokio::net::unix::pipe::{self, Receiver};
use tokio::time::timeout;

use crate::sys::fifo::{self, End};
use crate::telemetry::millis;

/// How long a DEL waits for an interrupted plugin. Longer than any healthy plugin takes. A plugin that hangs, or that
/// has left a process behind which holds its stderr open, must not keep the sandbox from being removed.
const INTERRUPTED_GRACE: Duration = Duration::from_secs(30);

/// The directory of the FIFOs, on a file system that a reboot empties.
pub(super) struct Running {
    dir: PathBuf,
}

impl Running {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// A pipe for the stderr of a plugin: our read end, and the plugin's write end. It has no name, so the next daemon
    /// cannot find it, if the plugin runs for no sandbox or the FIFO cannot be created: a full disk must not keep a DEL
    /// from releasing an address.
    pub(super) fn stderr(&self, id: Option<&str>) -> io::Result<(Receiver, OwnedFd)> {
        if let Some(id) = id {
            match self.named_pipe(id) {
                Ok(ends) => return Ok(ends),
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "the next daemon cannot wait for this cni plugin")
                }
            }
        }
        let (theirs, ours) = pipe::pipe()?;
        Ok((ours, theirs.into_blocking_fd()?))
    }

    fn named_pipe(&self, id: &str) -> io::Result<(Receiver, OwnedFd)> {
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

    /// Removes the FIFO of a plugin whose end this daemon has seen.
    pub(super) fn remove_fifo(&self, id: Option<&str>) {
        if let Some(id) = id {
            let _ = std::fs::remove_file(self.dir.join(id));
        }
    }

    /// Waits for an interrupted plugin: its daemon was killed, or its call was dropped.
    pub(super) async fn wait_until_ended(&self, id: &str) {
        let interrupted = match self.open_if_interrupted(id) {
            Ok(fifo) => fifo,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return tracing::warn!(sandbox = %id, %error, "cannot tell whether an interrupted cni plugin still runs");
            }
        };
        tracing::info!(sandbox = %id, "waiting for an interrupted cni plugin to exit");
        match timeout(INTERRUPTED_GRACE, until_silent(interrupted)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(sandbox = %id, %error, "cannot wait for an interrupted cni plugin"),
            Err(_) => {
                let ms = millis(INTERRUPTED_GRACE);
                tracing::warn!(sandbox = %id, ms, "an interrupted cni plugin still runs, DEL runs concurrently");
            }
        }
        self.remove_fifo(Some(id));
    }

    fn open_if_interrupted(&self, id: &str) -> io::Result<Receiver> {
        let path = self.dir.join(id);
        let fifo = Receiver::from_owned_fd(fifo::open(&path, End::Read)?)?;
        // poll(2) reports a hangup only to a reader that has seen a writer, so open and close one.
        drop(fifo::open(&path, End::Write)?);
        Ok(fifo)
    }
}

async fn until_silent(mut fifo: Receiver) -> io::Result<()> {
    copy(&mut fifo, &mut sink()).await.map(drop)
}
