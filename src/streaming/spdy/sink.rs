//! The server's half of a stream.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::frame::{Reset, StreamId};
use super::output::Output;
use super::table::Table;
use crate::streaming::{Gone, Sink};

/// Maximum payload of a data frame that we send. A client buffers a frame before it processes it, and moby/spdystream
/// queues up to 50 frames; larger frames cost less on both sides.
pub(super) const LARGEST_FRAME: usize = 256 * 1024;
const _: () = assert!(LARGEST_FRAME < 1 << 24, "a data frame's length has 24 bits");

/// The state that a session's streams share.
pub(super) struct Connection {
    pub(super) output: Output,
    pub(super) table: Table,
}

/// Sends on one stream. Dropping it closes our half; [`StreamSink::reset`] closes both.
pub(super) struct StreamSink {
    connection: Arc<Connection>,
    stream: StreamId,
    gone: CancellationToken,
    open: bool,
}

impl StreamSink {
    /// Creates the sink of a stream in the connection's table; `gone` is cancelled when the stream is reset.
    pub(super) fn new(connection: Arc<Connection>, stream: StreamId, gone: CancellationToken) -> Self {
        Self { connection, stream, gone, open: true }
    }

    /// Cancelled when the client has gone or has reset the stream.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Sends the last piece and closes our half.
    pub(super) async fn send_last(mut self, piece: Bytes) {
        let _ = self.pieces(piece, true).await;
        self.closed();
    }

    /// Closes both halves at once.
    pub(super) fn reset(mut self, reason: Reset) {
        self.open = false;
        self.connection.table.remove(self.stream);
        self.connection.output.reset(self.stream, reason);
    }

    async fn pieces(&mut self, mut chunk: Bytes, fin: bool) -> Result<(), Gone> {
        loop {
            let piece = chunk.split_to(chunk.len().min(LARGEST_FRAME));
            let last = chunk.is_empty();
            let write = self.connection.output.data(self.stream, piece, fin && last);
            tokio::select! {
                biased;
                result = write => result?,
                () = self.gone.cancelled() => return Err(Gone),
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Records that our half is closed, after its end was written or could not be written.
    fn closed(&mut self) {
        self.open = false;
        self.connection.table.end_ours(self.stream);
    }
}

impl Sink for StreamSink {
    fn send(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), Gone>> {
        async move {
            if !self.open || self.gone.is_cancelled() {
                return Err(Gone);
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.pieces(chunk, false).await
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if !self.open {
                return;
            }
            if !self.gone.is_cancelled() {
                let _ = self.pieces(Bytes::new(), true).await;
            }
            self.closed();
        }
        .boxed()
    }
}

impl Drop for StreamSink {
    fn drop(&mut self) {
        if self.open {
            if !self.gone.is_cancelled() {
                self.connection.output.end(self.stream);
            }
            self.closed();
        }
    }
}
