//! The output of an ExecSync, kept in pieces until it is sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use super::budget::{Claim, Lease, PIECE};
use super::exec::Target;

/// Room for the first read; most probes print less, and so never wait for the budget.
const LEAST: usize = 4 * 1024;
/// Room for a read of what is discarded.
const DISCARD: usize = 16 * 1024;

/// Most bytes kept of stdout and stderr together; the rest is read and discarded, and the command goes on. A reply of
/// kubelet's 16 MiB without 64 KiB for all else (rulings.md 33).
pub const REPLY_CAP: usize = (16 << 20) - (64 << 10);

/// What is kept of both streams of one command.
#[derive(Debug)]
pub struct Kept {
    cap: usize,
    claim: Claim,
    kept: AtomicUsize,
    discarded: AtomicUsize,
}

impl Kept {
    /// At most `cap` bytes, in pieces that `claim` allows.
    #[must_use]
    pub fn new(cap: usize, claim: Claim) -> Self {
        Self { cap, claim, kept: AtomicUsize::new(0), discarded: AtomicUsize::new(0) }
    }

    /// Bytes that went over the cap.
    #[must_use]
    pub fn discarded(&self) -> usize {
        self.discarded.load(Ordering::Relaxed)
    }

    /// How many of `count` bytes may be kept. Both streams are read by one task, one at a time.
    fn keep(&self, count: usize) -> usize {
        let kept = self.kept.load(Ordering::Relaxed);
        let fits = count.min(self.cap.saturating_sub(kept));
        self.kept.store(kept + fits, Ordering::Relaxed);
        self.discarded.fetch_add(count - fits, Ordering::Relaxed);
        fits
    }

    fn is_full(&self) -> bool {
        self.kept.load(Ordering::Relaxed) >= self.cap
    }
}

/// One stream of it.
#[derive(Debug)]
pub struct Collector<'a> {
    shared: &'a Kept,
    /// Those that are full.
    pieces: Vec<Bytes>,
    piece: Piece,
    /// How much of the piece is kept already.
    before: usize,
    /// What is read only to be discarded.
    rest: Option<BytesMut>,
}

impl<'a> Collector<'a> {
    /// Empty.
    #[must_use]
    pub fn new(shared: &'a Kept) -> Self {
        Self { shared, pieces: Vec::new(), piece: Piece::default(), before: 0, rest: None }
    }

    /// What was collected, in its order. The memory is the budget's again when the pieces are dropped.
    #[must_use]
    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.push();
        self.pieces
    }

    fn push(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        if !piece.bytes.is_empty() {
            self.pieces.push(Bytes::from_owner(piece));
        }
    }
}

impl Target for Collector<'_> {
    async fn room(&mut self) {
        if self.shared.is_full() {
            let rest = self.rest.get_or_insert_default();
            rest.clear();
            return rest.reserve(DISCARD);
        }
        if self.piece.bytes.capacity() == 0 {
            self.piece.bytes = BytesMut::with_capacity(LEAST);
        } else if self.piece.bytes.len() == self.piece.bytes.capacity() {
            self.push();
            let lease = self.shared.claim.lease().await;
            self.piece = Piece { bytes: BytesMut::with_capacity(PIECE), _lease: Some(lease) };
        }
        self.before = self.piece.bytes.len();
    }

    fn buffer(&mut self) -> &mut BytesMut {
        self.rest.as_mut().unwrap_or(&mut self.piece.bytes)
    }

    async fn filled(&mut self) {
        match &self.rest {
            Some(rest) => {
                self.shared.keep(rest.len());
            }
            None => {
                let count = self.piece.bytes.len() - self.before;
                let fits = self.shared.keep(count);
                self.piece.bytes.truncate(self.before + fits);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Piece {
    bytes: BytesMut,
    _lease: Option<Lease>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Output that nobody wants.
#[derive(Debug, Default)]
pub struct Discard(BytesMut);

impl Target for Discard {
    async fn room(&mut self) {
        self.0.reserve(DISCARD);
    }

    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    async fn filled(&mut self) {
        self.0.clear();
    }
}
