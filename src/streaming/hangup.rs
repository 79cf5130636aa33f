//! Detects that the client has closed its end of the connection, even while earlier data is unread because its consumer
//! (a command's stdin, a forwarded port) does not read.
//!
//! While the client's kernel still has bytes to send to us, its close cannot be seen. That kernel gives up after some
//! minutes, and then our keepalive detects the loss.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Watches a connection through a duplicated descriptor, so that the readiness consumed here is not taken from the task
/// that reads the connection.
#[derive(Clone)]
pub(super) struct Hangup(Arc<TcpStream>);

impl Hangup {
    pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
        let duplicate = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self(Arc::new(TcpStream::from_std(duplicate)?)))
    }

    /// Resolves when the client has closed its end.
    pub(super) async fn closed(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // More bytes have arrived, for the connection's reader: wait for the next event. tokio never clears the
            // closed state, so a close cannot be missed.
            let _ = self.0.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        }
    }

    /// Drives a session to its end, and cancels its `gone` if the client hangs up first.
    pub(super) async fn watch(&self, gone: &CancellationToken, session: impl Future<Output = ()>) {
        let mut session = pin!(session);
        tokio::select! {
            () = &mut session => return,
            () = self.closed() => gone.cancel(),
        }
        session.await;
    }
}
