//! The open streams of one session, and the bytes that wait for their readers.
//!
//! A stream is open until both halves are closed, or either side resets it. If a reader's queue is full, the connection
//! is not read: without flow control there is no other way to slow a client down. A reader that has gone holds nothing
//! up: data for it is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::StreamId;
use crate::mutex::{Mutex, MutexGuard};
use crate::streaming::Input;

/// Maximum number of pieces queued for one reader.
const MOST_PIECES: usize = 16;
/// Maximum number of bytes that are queued for, or still held by, all readers of a session.
const MOST_BYTES: usize = 256 * 1024;

/// The streams of one session.
pub(super) struct Table {
    // Never held across an await.
    streams: Mutex<HashMap<StreamId, Alive>>,
    most: usize,
    budget: Arc<Semaphore>,
    gone: CancellationToken,
}

/// A stream with at least one open half.
struct Alive {
    // `None` once the client has closed its half.
    from_client: Option<mpsc::Sender<Bytes>>,
    to_client: bool,
    gone: CancellationToken,
}

/// What became of a piece that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The reader has the piece, or has gone and does not want it.
    Done,
    /// The stream is not open for data, or is not in use any more.
    NoStream,
}

impl Table {
    /// Creates the table of a session with at most `most` streams at a time.
    pub(super) fn new(most: usize, gone: CancellationToken) -> Self {
        Self { streams: Mutex::default(), most, budget: Arc::new(Semaphore::new(MOST_BYTES)), gone }
    }

    /// Adds a stream that the client opens, already half-closed by the client if `fin`. Returns the client's data, and
    /// a token that is cancelled when the stream is reset. `None` if there are too many streams.
    pub(super) fn open(&self, stream: StreamId, fin: bool) -> Option<(Input, CancellationToken)> {
        let mut streams = self.streams();
        if streams.len() >= self.most {
            return None;
        }
        let (sender, input) = mpsc::channel(MOST_PIECES);
        let gone = self.gone.child_token();
        let from_client = (!fin).then_some(sender);
        streams.insert(stream, Alive { from_client, to_client: true, gone: gone.clone() });
        Some((input, gone))
    }

    /// Passes a piece to the stream's reader once the queue and the budget have space.
    pub(super) async fn deliver(&self, stream: StreamId, piece: Bytes) -> Delivery {
        let Some(reader) = self.reader(stream) else { return Delivery::NoStream };
        if piece.is_empty() || reader.is_closed() {
            return Delivery::Done;
        }
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget);
        let hand_over = async {
            if let Ok(permit) = budget.acquire_many_owned(length).await {
                let _ = reader.send(Bytes::from_owner(Counted { piece, _permit: permit })).await;
            }
        };
        tokio::select! {
            biased;
            () = hand_over => {}
            // The reader has gone. Do not wait for budget that other readers may have used up.
            () = reader.closed() => {}
        }
        Delivery::Done
    }

    /// Closes the client's half.
    pub(super) fn end(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(alive) = streams.get_mut(&stream) {
            alive.from_client = None;
            if !alive.to_client {
                streams.remove(&stream);
            }
        }
    }

    /// Closes our half.
    pub(super) fn end_ours(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(alive) = streams.get_mut(&stream) {
            alive.to_client = false;
            if alive.from_client.is_none() {
                streams.remove(&stream);
            }
        }
    }

    /// Removes a stream that was reset, and cancels its token.
    pub(super) fn remove(&self, stream: StreamId) {
        if let Some(alive) = self.streams().remove(&stream) {
            alive.gone.cancel();
        }
    }

    /// Ends the input of every reader, because the client has gone.
    pub(super) fn clear(&self) {
        self.streams().clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams().is_empty()
    }

    /// The queue for a stream's data. `None` if the client's half is closed or neither half is in use any more; the
    /// client then gets a reset.
    fn reader(&self, stream: StreamId) -> Option<mpsc::Sender<Bytes>> {
        let streams = self.streams();
        let Alive { from_client, to_client, .. } = streams.get(&stream)?;
        from_client.clone().filter(|reader| *to_client || !reader.is_closed())
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Alive>> {
        self.streams.lock()
    }
}

/// A piece that counts against the session's budget until its last user drops it.
struct Counted {
    piece: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}
