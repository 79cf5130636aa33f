//! The direction of the connection to the client.
//!
//! A sink writes its data directly: header and payload in one `writev`, without a copy or a switch to another task.
//! Small frames (replies, pings, ends of streams) are queued without waiting. They are written before the next data
//! frame, or when the session's task flushes them.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;

use super::frame::{self, GoAwayReason, Reset, StreamId};
use super::headers::EmptyBlocks;
use crate::mutex::{Mutex, MutexGuard};
use crate::streaming::Gone;
use crate::streaming::life::Activity;

/// Number of queued bytes above which the connection is not read: a client that sends pings must read the replies.
const MOST_QUEUED: usize = 4 * 1024;

/// The write half of the connection.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Writes frames; shared by the session and its sinks.
pub(super) struct Output {
    wire: AsyncMutex<Wire>,
    // Never held across an await.
    queue: Mutex<Queue>,
    queued: Notify,
    activity: Activity,
}

/// Frames that wait for the next write.
#[derive(Default)]
struct Queue {
    frames: Vec<u8>,
    blocks: EmptyBlocks,
}

/// The connection, and the rest of a write that was abandoned halfway. The next write starts with this rest, so a
/// future of ours can be dropped at any await and the client still receives whole frames.
struct Wire {
    // `None` once closed.
    writer: Option<Writer>,
    head: Bytes,
    body: Bytes,
}

impl Output {
    pub(super) fn new(writer: Writer, activity: Activity) -> Self {
        let wire = Wire { writer: Some(writer), head: Bytes::new(), body: Bytes::new() };
        Self { wire: AsyncMutex::new(wire), queue: Mutex::default(), queued: Notify::new(), activity }
    }

    /// Writes a data frame; `piece` must be shorter than 16 MiB.
    pub(super) async fn data(&self, stream: StreamId, piece: Bytes, fin: bool) -> Result<(), Gone> {
        let mut wire = self.wire.lock().await;
        self.write(&mut wire).await?;
        let mut head = self.take();
        frame::data(&mut head, stream, piece.len(), fin);
        wire.head = head.into();
        wire.body = piece;
        self.write(&mut wire).await
    }

    /// Writes the queued frames.
    pub(super) async fn flush(&self) -> Result<(), Gone> {
        let mut wire = self.wire.lock().await;
        self.write(&mut wire).await?;
        wire.head = self.take().into();
        self.write(&mut wire).await
    }

    /// Flushes whenever a frame has been queued, until the connection fails.
    pub(super) async fn flush_always(&self) -> Gone {
        loop {
            self.queued.notified().await;
            if let Err(gone) = self.flush().await {
                return gone;
            }
        }
    }

    /// Waits until the queue has space again, because the client has read its replies.
    pub(super) async fn wait_for_space(&self) -> Result<(), Gone> {
        let full = self.queue().frames.len() > MOST_QUEUED;
        if full { self.flush().await } else { Ok(()) }
    }

    /// Queues a SYN_REPLY.
    pub(super) fn reply(&self, stream: StreamId) {
        let mut queue = self.queue();
        let Queue { frames, blocks } = &mut *queue;
        frame::reply(frames, stream, blocks);
        self.queued.notify_one();
    }

    /// Queues a RST_STREAM.
    pub(super) fn reset(&self, stream: StreamId, reason: Reset) {
        frame::reset(&mut self.queue().frames, stream, reason);
        self.queued.notify_one();
    }

    /// Queues the reply to a PING.
    pub(super) fn pong(&self, number: u32) {
        frame::ping(&mut self.queue().frames, number);
        self.queued.notify_one();
    }

    /// Queues the end of our half of a stream.
    pub(super) fn end(&self, stream: StreamId) {
        frame::data(&mut self.queue().frames, stream, 0, true);
        self.queued.notify_one();
    }

    /// Queues a GOAWAY.
    pub(super) fn go_away(&self, last: u32, reason: GoAwayReason) {
        frame::go_away(&mut self.queue().frames, last, reason);
        self.queued.notify_one();
    }

    /// Writes the queued frames if the client reads them in time, and closes the connection even if there still are
    /// sinks.
    pub(super) async fn close(&self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline, self.flush()).await;
        // Sinks release the lock as soon as the session is over. A sink that is never polled again must not block this.
        let Ok(mut wire) = tokio::time::timeout_at(deadline + Duration::from_secs(1), self.wire.lock()).await else {
            return;
        };
        if let Some(mut writer) = wire.writer.take() {
            // Here TLS sends its close_notify.
            let _ = tokio::time::timeout_at(deadline, writer.shutdown()).await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.queue().frames)
    }

    async fn write(&self, wire: &mut Wire) -> Result<(), Gone> {
        let result = wire.drain(&self.activity).await;
        if result.is_err() {
            wire.writer = None;
        }
        result.map_err(|_| Gone)
    }
}

impl Wire {
    async fn drain(&mut self, activity: &Activity) -> io::Result<()> {
        let Self { writer, head, body } = self;
        let Some(writer) = writer else { return Err(io::ErrorKind::NotConnected.into()) };
        while !head.is_empty() || !body.is_empty() {
            let written = writer.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            activity.touch();
            let of_head = written.min(head.len());
            head.advance(of_head);
            body.advance(written - of_head);
        }
        // An empty `Bytes` can still hold its memory.
        *body = Bytes::new();
        writer.flush().await
    }
}
