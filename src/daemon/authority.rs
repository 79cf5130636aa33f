//! Any `:authority` is answered on our UNIX sockets, where it says nothing: Python's gRPC, Java's and older Go's put the
//! socket's path there.
//!
//! h2 refuses a request whose authority is no host and port with PROTOCOL_ERROR, below everything that could be told
//! otherwise (docs/adr/0019). So the authority is overwritten before h2 reads it, in place: neither the length of a frame nor
//! the size of an entry in HPACK's dynamic table changes, and with that nothing else of the connection.

mod frames;
mod header_block;
mod huffman;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use frames::Frames;

/// What is read at once while the rest of a header block is waited for.
const MORE: usize = 4 << 10;

/// A server's connection, whose client may name the server as it likes.
pub(super) struct AnyAuthority<S> {
    stream: S,
    frames: Frames,
    /// Bytes that were read and not handed on. Empty but for the moments between two parts of one header block.
    held: Vec<u8>,
    /// How many of them may be handed on.
    ready: usize,
    /// The client's process, for the log.
    pid: Option<i32>,
    /// Whether the log has a line about this connection.
    told: bool,
}

impl AnyAuthority<UnixStream> {
    pub(super) fn new(stream: UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Self::of(stream, pid)
    }
}

impl<S> AnyAuthority<S> {
    fn of(stream: S, pid: Option<i32>) -> Self {
        Self { stream, frames: Frames::default(), held: Vec::new(), ready: 0, pid, told: false }
    }

    /// Overwrites the authorities in what was just read; how much of it may be handed on.
    fn look(&mut self, bytes: &mut [u8]) -> usize {
        let looked = self.frames.look(bytes);
        if looked.odd && !self.told {
            self.told = true;
            let pid = self.pid;
            tracing::warn!(
                pid,
                "a client's :authority is empty or no text: its calls may be refused with PROTOCOL_ERROR"
            );
        }
        looked.complete
    }

    /// Hands on what is held and may be.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.drain(..length);
        self.ready -= length;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut me.stream).poll_read(cx, buf))?;
            let new = &mut buf.filled_mut()[before..];
            let complete = me.look(new);
            me.held.extend_from_slice(&new[complete..]);
            let is_end = new.is_empty();
            buf.set_filled(before + complete);
            if complete > 0 || is_end {
                return Poll::Ready(Ok(()));
            }
        }
        while me.ready == 0 {
            let mut more = [0; MORE];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut me.stream).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                // The end came in the middle of a frame, which is for h2 to judge.
                me.ready = me.held.len();
                break;
            }
            let mut held = std::mem::take(&mut me.held);
            held.extend_from_slice(more.filled());
            me.ready = me.look(&mut held);
            me.held = held;
        }
        me.hand_on(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests;
