//! SPDY in binary messages (SPDY/3.1+portforward.k8s.io): makes a plain byte stream of a WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::connection::{self, Io};
use super::cut::MessageSplitter;

/// Maximum length of a message that we send.
const PIECE: usize = 64 << 10;

/// Starts WebSocket on an upgraded connection whose messages form a byte stream.
pub(in crate::streaming) async fn tunnel<T: Io>(io: T) -> Tunnel<T> {
    Tunnel { frames: connection::open(io, false).await, unread: Bytes::new(), unflushed: false }
}

/// A byte stream over messages. The boundaries of the messages have no meaning.
pub(in crate::streaming) struct Tunnel<T> {
    frames: WebSocketStream<MessageSplitter<T>>,
    /// The rest of the last message.
    unread: Bytes,
    /// Whether a message was accepted that may not be written completely.
    unflushed: bool,
}

impl<T: Io> Tunnel<T> {
    fn push(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.frames).poll_flush(context));
        self.unflushed = false;
        Poll::Ready(flushed.map_err(io::Error::other))
    }

    fn send(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // One message at a time, so that a client that does not read makes the writer wait.
        if self.unflushed {
            ready!(self.push(context))?;
        }
        ready!(Pin::new(&mut self.frames).poll_ready(context)).map_err(io::Error::other)?;
        let mut message = BytesMut::with_capacity(slices.iter().map(|slice| slice.len()).sum::<usize>().min(PIECE));
        for slice in slices {
            let remaining = PIECE - message.len();
            message.extend_from_slice(&slice[..slice.len().min(remaining)]);
        }
        let length = message.len();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.frames).start_send(Message::Binary(message.freeze())).map_err(io::Error::other)?;
        self.unflushed = true;
        // Start writing now, as a socket would; the next write or flush writes the rest. A read never writes: it may
        // run in another task, whose waker would replace the writer's.
        match self.push(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }
}

impl<T: Io> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(context)) {
                Some(Ok(Message::Binary(message))) => self.unread = message,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let length = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: Io> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(context, slices)
    }

    /// A header and its payload go into one message.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With nothing to write, a flush does not fail, even if the client has received everything and gone.
        if self.unflushed { self.push(context) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.frames).poll_close(context)) {
            // `AlreadyClosed`: the client sent its close frame first, and was answered. It then waits for the server to
            // close the connection (RFC 6455, 7.1.1).
            Ok(()) | Err(Error::AlreadyClosed) => Pin::new(self.frames.get_mut()).poll_shutdown(context),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn bytes_come_through_whatever_the_messages_and_both_ways_at_once() {
        const MUCH: usize = 3_000_001;
        let (near, far) = duplex(10_000);
        let (mut read, mut write) = split(tunnel(near).await);
        let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let (mut to_server, mut from_server) = client.split();
        let echo = async {
            let copied = tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
            copied
        };
        // A client's close frame ends both directions, so it comes last.
        let exchange = async {
            let send = async {
                let bytes: Vec<u8> = (0..=250).cycle().take(MUCH).collect();
                for message in bytes.chunks(77_777) {
                    to_server.send(Message::Binary(message.to_vec().into())).await.unwrap();
                    to_server.send(Message::Ping(Bytes::new())).await.unwrap();
                }
            };
            let receive = async {
                let mut bytes = Vec::new();
                while bytes.len() < MUCH {
                    if let Message::Binary(message) = from_server.next().await.unwrap().unwrap() {
                        bytes.extend_from_slice(&message);
                    }
                }
                bytes
            };
            let ((), bytes) = tokio::join!(send, receive);
            to_server.send(Message::Close(None)).await.unwrap();
            while let Some(Ok(_)) = from_server.next().await {}
            bytes
        };
        let (copied, received) = tokio::join!(echo, exchange);
        assert_eq!(copied, MUCH as u64);
        assert!(received.into_iter().eq((0..=250).cycle().take(MUCH)));
    }

    #[tokio::test]
    async fn text_is_not_taken() {
        let (near, far) = duplex(10_000);
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        client.send(Message::Text("x".into())).await.unwrap();
        assert!(tunnel(near).await.read_u8().await.is_err());
    }
}
