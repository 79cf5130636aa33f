//! Waits until the kernel has changed the content of one of its own files.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Changes of a cgroup file, which poll(2) reports as POLLPRI. Reading the file arms the notification (cgroup-v2.rst,
/// "memory.events").
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Watches an open file.
    ///
    /// # Errors
    /// The file cannot be polled.
    #[allow(unsafe_code, reason = "tokio asks its caller to promise that the descriptor stays what it is")]
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd refers to the same open file until the AsyncFd, which owns it, drops it.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        Ok(Self(file?))
    }

    /// Waits for a change since the file was last read.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub async fn next(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}
