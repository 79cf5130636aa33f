//! Waiting until the kernel has changed what a file of its own says.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Changes of a file of a cgroup: what poll(2) calls POLLPRI. A read of the file arms it (cgroup-v2.rst, "memory.events").
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Of an open file.
    ///
    /// # Errors
    /// For a file that cannot be polled.
    #[allow(unsafe_code, reason = "tokio asks its caller to promise that the descriptor stays what it is")]
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd names the same open file from now on until the AsyncFd, which owns it, drops it.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        Ok(Self(file?))
    }

    /// Waits for a change since the file was read last.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn next(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}
