//! The client's end of the connection is closed: seen also while what it sent before is not read yet, because
//! the command does not read its stdin.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a socket by a descriptor of its own: readiness that is looked at here is not taken from who reads.
pub(in crate::streaming) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    pub(in crate::streaming) fn of(socket: impl AsFd) -> io::Result<Self> {
        Ok(Self(AsyncFd::with_interest(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)?))
    }

    /// Resolves when the client has closed its end.
    pub(super) async fn heard(&self) {
        while let Ok(mut guard) = self.0.readable().await {
            if guard.ready().is_read_closed() {
                return;
            }
            // More bytes came. The next event is waited for; a close is never cleared.
            guard.clear_ready();
        }
    }
}
