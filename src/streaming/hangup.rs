//! The client's end of the connection is closed: seen also while what it sent before is not read yet, because
//! nobody reads the stream that it is for: a command its stdin, a port what is forwarded to it. A client whose own kernel
//! still has bytes for us cannot be seen to go: its kernel gives up after minutes, and then the keepalive tells.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Watches a connection by a descriptor of its own: readiness that is looked at here is not taken from who reads.
#[derive(Clone)]
pub(super) struct Hangup(Arc<TcpStream>);

impl Hangup {
    pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
        let duplicate = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self(Arc::new(TcpStream::from_std(duplicate)?)))
    }

    /// Resolves when the client has closed its end.
    pub(super) async fn heard(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // More bytes came, which are not for us: the next event is waited for. A close is never forgotten.
            let _ = self.0.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        }
    }

    /// Carries a session to its end, and cancels its `gone` when the client goes first.
    pub(super) async fn watch(&self, gone: &CancellationToken, session: impl Future<Output = ()>) {
        let mut session = pin!(session);
        tokio::select! {
            () = &mut session => return,
            () = self.heard() => gone.cancel(),
        }
        session.await;
    }
}
