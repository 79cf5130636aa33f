//! The streams that are alive in one session, and the bytes that wait for their readers.
//!
//! A stream is alive until both halves are closed, or either side resets it. Reading the connection waits for a reader
//! whose queue is full: without flow control there is no other way to slow a client down. A reader that has gone holds
//! nobody up: what comes for it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::StreamId;
use crate::streaming::Input;

/// Pieces that wait for one reader.
const MOST_PIECES: usize = 16;
/// Bytes that wait for all readers of a session, or are in their hands.
const MOST_BYTES: usize = 256 * 1024;

/// The streams of one session.
pub(super) struct Table {
    // Never held across an await.
    streams: Mutex<HashMap<StreamId, Alive>>,
    most: usize,
    budget: Arc<Semaphore>,
    gone: CancellationToken,
}

/// A stream of which at least one half is open.
struct Alive {
    // `None` once the client has closed its half.
    from_client: Option<mpsc::Sender<Bytes>>,
    to_client: bool,
    gone: CancellationToken,
}

/// What became of a piece that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The reader has it, or has gone and does not want it.
    Done,
    /// The stream is not open, or nobody has anything to do with it any more.
    NoStream,
}

impl Table {
    /// For a session that has at most so many streams at a time.
    pub(super) fn new(most: usize, gone: CancellationToken) -> Self {
        Self { streams: Mutex::default(), most, budget: Arc::new(Semaphore::new(MOST_BYTES)), gone }
    }

    /// Adds a stream that the client opens, half-closed by it if `fin`: what it sends, and what is cancelled when the
    /// stream is reset. `None` when there are too many.
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

    /// Hands a piece to the stream's reader, when there is room.
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
            // Others may have used up the budget: that is nothing to wait for any more.
            () = reader.closed() => {}
        }
        Delivery::Done
    }

    /// The client has closed its half.
    pub(super) fn end(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(alive) = streams.get_mut(&stream) {
            alive.from_client = None;
            if !alive.to_client {
                streams.remove(&stream);
            }
        }
    }

    /// We have closed our half.
    pub(super) fn end_ours(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(alive) = streams.get_mut(&stream) {
            alive.to_client = false;
            if alive.from_client.is_none() {
                streams.remove(&stream);
            }
        }
    }

    /// Forgets a stream that was reset, and tells whoever is connected to it.
    pub(super) fn remove(&self, stream: StreamId) {
        if let Some(alive) = self.streams().remove(&stream) {
            alive.gone.cancel();
        }
    }

    /// The client has gone: every reader comes to its end.
    pub(super) fn clear(&self) {
        self.streams().clear();
    }

    /// Whether no stream is alive.
    pub(super) fn is_empty(&self) -> bool {
        self.streams().is_empty()
    }

    /// Where a piece goes; nowhere when neither half is of use any more, and the client is to be told.
    fn reader(&self, stream: StreamId) -> Option<mpsc::Sender<Bytes>> {
        let streams = self.streams();
        let Alive { from_client, to_client, .. } = streams.get(&stream)?;
        from_client.clone().filter(|reader| *to_client || !reader.is_closed())
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Alive>> {
        // Each change is one call of the map: a panic leaves none half made.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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
