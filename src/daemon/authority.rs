//! Accepts any `:authority` on our UNIX sockets, where it has no meaning: the gRPC libraries of Python, Java and older
//! Go put the socket's path there.
//!
//! h2 rejects a request whose authority is not a host and port with PROTOCOL_ERROR, below every layer that could decide
//! otherwise (docs/adr/0019). So the authority is overwritten in place before h2 reads it. Neither the length of a
//! frame nor the size of an entry in HPACK's dynamic table changes, so the rest of the connection is not affected.

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

/// The size of a read while the rest of a header block is missing.
const MORE: usize = 4 << 10;

/// A server's connection that accepts any authority from its client.
pub(super) struct AnyAuthority<S> {
    stream: S,
    frames: Frames,
    /// Bytes that were read and not passed on. Empty except while a part of a header block is still missing.
    held: Vec<u8>,
    /// How many bytes of `held` may be passed on.
    ready: usize,
    /// The client's process, for the log.
    pid: Option<i32>,
    /// Whether a warning about this connection was logged.
    warned: bool,
}

impl AnyAuthority<UnixStream> {
    pub(super) fn new(stream: UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Self::of(stream, pid)
    }
}

impl<S> AnyAuthority<S> {
    fn of(stream: S, pid: Option<i32>) -> Self {
        Self { stream, frames: Frames::default(), held: Vec::new(), ready: 0, pid, warned: false }
    }

    /// Overwrites the authorities in the bytes just read. Returns how many of the bytes may be passed on.
    fn rewrite(&mut self, bytes: &mut [u8]) -> usize {
        let rewritten = self.frames.rewrite(bytes);
        if rewritten.failed && !self.warned {
            self.warned = true;
            let pid = self.pid;
            tracing::warn!(
                pid,
                "a client's :authority is empty or no text: its calls may be refused with PROTOCOL_ERROR"
            );
        }
        rewritten.complete
    }

    /// Passes on those bytes of `held` that may be.
    fn pass_on(&mut self, buf: &mut ReadBuf<'_>) {
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
            let complete = me.rewrite(new);
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
                // The stream ended in the middle of a frame. h2 handles that.
                me.ready = me.held.len();
                break;
            }
            let mut held = std::mem::take(&mut me.held);
            held.extend_from_slice(more.filled());
            me.ready = me.rewrite(&mut held);
            me.held = held;
        }
        me.pass_on(buf);
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
