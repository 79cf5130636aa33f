//! One WebSocket connection, split into halves. Each producer of output writes directly, with no task in between.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::Session;
use super::channels::{ClientMessage, Codec};
use super::cut::{self, MessageSplitter};
use crate::streaming::life::Activity;
use crate::streaming::{Gone, Sink};

/// Output is cut into messages of this many bytes: some clients process a message only once it is complete.
const PIECE: usize = 64 << 10;
/// Maximum number of bytes waiting to be written, such as pongs for a client that pings and does not read. Data is
/// written out before more is accepted.
const UNWRITTEN: usize = 1 << 20;
/// How long a client may take to confirm the end of a session.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// The traits that a connection has to implement.
pub(in crate::streaming) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Starts WebSocket on a connection that has been upgraded.
pub(super) async fn open<T: Io>(io: T, has_channels: bool) -> WebSocketStream<MessageSplitter<T>> {
    let longest = Some(cut::LONGEST + 1);
    let config = WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .max_write_buffer_size(UNWRITTEN)
        .max_message_size(longest)
        .max_frame_size(longest);
    WebSocketStream::from_raw_socket(MessageSplitter::new(io, has_channels), Role::Server, Some(config)).await
}

/// Starts WebSocket with channels on a connection that has been upgraded.
pub(super) async fn channels<T: Io>(
    io: T,
    codec: Codec,
    count: u8,
    gone: CancellationToken,
) -> (Arc<Writer<T>>, Reader<T>) {
    let (sink, frames) = open(io, true).await.split();
    let activity = Activity::start();
    let writer = Writer { frames: Mutex::new(sink), codec, activity: activity.clone(), gone };
    (Arc::new(writer), Reader { frames, codec, count, activity, broken: false })
}

/// The write half.
pub(super) struct Writer<T> {
    frames: Mutex<SplitSink<WebSocketStream<MessageSplitter<T>>, Message>>,
    codec: Codec,
    activity: Activity,
    gone: CancellationToken,
}

impl<T: Io> Writer<T> {
    /// Writes a message, even if the session has to end.
    pub(super) async fn write(&self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        let message = self.codec.write(channel, data);
        let message = match self.codec {
            Codec::Binary | Codec::BinaryWithClose => Message::Binary(message),
            Codec::Base64 => Message::Text(Utf8Bytes::try_from(message).map_err(|_| Gone)?),
        };
        let sent = self.frames.lock().await.send(message).await;
        self.activity.touch();
        sent.map_err(|_| {
            self.gone.cancel();
            Gone
        })
    }

    /// Returns a stream to the client.
    pub(super) fn channel(self: &Arc<Self>, channel: u8) -> Box<dyn Sink> {
        Box::new(Channel { writer: Arc::clone(self), channel })
    }

    async fn close(&self, code: CloseCode) {
        let frame = CloseFrame { code, reason: Utf8Bytes::default() };
        let _ = self.frames.lock().await.send(Message::Close(Some(frame))).await;
    }
}

struct Channel<T> {
    writer: Arc<Writer<T>>,
    channel: u8,
}

impl<T: Io> Sink for Channel<T> {
    fn send(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), Gone>> {
        Box::pin(async move {
            let write = async {
                for piece in chunk.chunks(PIECE) {
                    self.writer.write(self.channel, piece).await?;
                }
                Ok(())
            };
            // A client that does not read must not hold up a session that has to end.
            self.writer.gone.run_until_cancelled(write).await.unwrap_or(Err(Gone))
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        // Only clients can close a channel (in v5), so the client sees the end of the session instead.
        Box::pin(std::future::ready(()))
    }
}

/// The read half.
pub(super) struct Reader<T> {
    frames: SplitStream<WebSocketStream<MessageSplitter<T>>>,
    codec: Codec,
    count: u8,
    activity: Activity,
    /// Whether the client has broken the protocol.
    broken: bool,
}

impl<T: Io> Reader<T> {
    /// Returns the client's next message; [`Gone`] if it closed the session, hung up or broke the protocol. The
    /// WebSocket library answers pings.
    pub(super) async fn next(&mut self) -> Result<ClientMessage, Gone> {
        loop {
            let message = match self.frames.next().await {
                Some(Ok(Message::Binary(message))) => message,
                Some(Ok(Message::Text(message))) => message.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_))) | None => return Err(Gone),
                Some(Err(_)) => {
                    self.broken = true;
                    return Err(Gone);
                }
            };
            self.activity.touch();
            return self.codec.parse(self.count, message).map_err(|_| {
                self.broken = true;
                Gone
            });
        }
    }

    /// Reads until the client has confirmed the end. Closing a socket that holds unread data would take from the client
    /// what it has not read yet.
    async fn read_to_end(&mut self) {
        while let Some(Ok(_)) = self.frames.next().await {}
    }
}

/// Runs a session to its own end. Tells it to end when the client goes, or when nothing has been carried for too long.
pub(super) async fn drive<R>(
    session: &Session,
    activity: &Activity,
    run: impl Future<Output = R>,
    read: impl Future<Output = ()>,
) -> R {
    let mut run = pin!(run);
    tokio::select! {
        ended = &mut run => return ended,
        () = read => {}
        () = activity.idle(session.context.idle) => {}
    }
    session.context.gone.cancel();
    run.await
}

/// Ends the connection with the last message, if any, and a close frame. A client that reads slowly gets all of it, for
/// as long as the session may last.
pub(super) async fn close_session<T: Io>(
    session: &Session,
    writer: &Writer<T>,
    reader: &mut Reader<T>,
    last: Option<(u8, Vec<u8>)>,
) {
    let code = if reader.broken { CloseCode::Protocol } else { CloseCode::Normal };
    let closing = async {
        if let Some((channel, last)) = last {
            // This fails if the client sent its close frame first; reading to the end answers that frame.
            let _ = writer.write(channel, &last).await;
        }
        writer.close(code).await;
    };
    let overdue = async {
        tokio::select! {
            () = session.context.gone.cancelled() => {}
            () = session.hangup.closed() => {}
            () = writer.activity.idle(session.context.idle) => {}
        }
        tokio::time::sleep(CLOSE_TIME).await;
    };
    tokio::select! {
        () = closing => {
            let _ = tokio::time::timeout(CLOSE_TIME, reader.read_to_end()).await;
        }
        () = overdue => {}
    }
}

impl<T> Reader<T> {
    /// The activity that [`drive`] watches.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }
}
