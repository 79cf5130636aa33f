//! One WebSocket connection, split: whoever has output writes it by itself, no task stands between.

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
use super::channels::{Codec, Said};
use super::cut::{self, Cut};
use crate::streaming::life::Activity;
use crate::streaming::{Gone, Sink};

/// Output is cut into messages of this size: some clients take a message only as a whole.
const PIECE: usize = 64 << 10;
/// What may wait to be written when a client sends pings and reads nothing; data is written before more is taken.
const UNWRITTEN: usize = 1 << 20;
/// How long a client may take to agree to the end of a session.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a connection has to be.
pub(in crate::streaming) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection that has been upgraded, speaking WebSocket from here on.
pub(super) async fn open<T: Io>(io: T, has_channels: bool) -> WebSocketStream<Cut<T>> {
    let longest = Some(cut::LONGEST + 1);
    let config = WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .max_write_buffer_size(UNWRITTEN)
        .max_message_size(longest)
        .max_frame_size(longest);
    WebSocketStream::from_raw_socket(Cut::new(io, has_channels), Role::Server, Some(config)).await
}

/// A connection that carries channels.
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

/// The half that writes.
pub(super) struct Writer<T> {
    frames: Mutex<SplitSink<WebSocketStream<Cut<T>>, Message>>,
    codec: Codec,
    activity: Activity,
    gone: CancellationToken,
}

impl<T: Io> Writer<T> {
    /// Writes a message, even to a session that has to end.
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

    /// A stream towards the client.
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
            // A client that does not read must not keep a session that has to end.
            self.writer.gone.run_until_cancelled(write).await.unwrap_or(Err(Gone))
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        // No version has a message for it: clients see the end of the session. v5's close is a client's.
        Box::pin(std::future::ready(()))
    }
}

/// The half that reads.
pub(super) struct Reader<T> {
    frames: SplitStream<WebSocketStream<Cut<T>>>,
    codec: Codec,
    count: u8,
    activity: Activity,
    /// The client broke the rules.
    broken: bool,
}

impl<T: Io> Reader<T> {
    /// What the client says next; [`Gone`] when it said goodbye, hung up, or broke the rules. Pings are answered below.
    pub(super) async fn next(&mut self) -> Result<Said, Gone> {
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

    /// Until the client has agreed to the end: a socket that is closed with something unread in it takes from the client
    /// what it has not read yet.
    async fn drain(&mut self) {
        while let Some(Ok(_)) = self.frames.next().await {}
    }
}

/// Runs a session to its own end, and makes it end when the client goes or nothing is carried for too long.
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
        () = activity.idle(session.life.idle) => {}
    }
    session.life.gone.cancel();
    run.await
}

/// The end: the last message, if there is one, and goodbye. A client that is slow to read gets all of it, as long as the
/// session may last.
pub(super) async fn farewell<T: Io>(
    session: &Session,
    writer: &Writer<T>,
    reader: &mut Reader<T>,
    last: Option<(u8, Vec<u8>)>,
) {
    let code = if reader.broken { CloseCode::Protocol } else { CloseCode::Normal };
    let parting = async {
        if let Some((channel, last)) = last {
            // It fails when the client said goodbye first; draining answers that.
            let _ = writer.write(channel, &last).await;
        }
        writer.close(code).await;
    };
    let overdue = async {
        tokio::select! {
            () = session.life.gone.cancelled() => {}
            () = session.hangup.heard() => {}
            () = writer.activity.idle(session.life.idle) => {}
        }
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = parting => {
            let _ = tokio::time::timeout(FAREWELL, reader.drain()).await;
        }
        () = overdue => {}
    }
}

impl<T> Reader<T> {
    /// What [`drive`] looks at.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }
}
