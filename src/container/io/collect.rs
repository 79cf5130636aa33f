//! The output of an ExecSync, held in pieces until it is sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use super::budget::{Claim, Lease, PIECE};
use super::exec::Target;
use crate::sys::pages::Pages;

/// Buffer for the first read, on the heap. Most probes print less, and so never wait for the budget.
const LEAST: usize = 4 * 1024;
/// Buffer for reads whose bytes are discarded.
const DISCARD: usize = 16 * 1024;

/// Maximum of bytes kept of stdout and stderr together. The rest is read and discarded, and the command continues.
/// This is kubelet's limit of 16 MiB for a reply minus 64 KiB for everything else in it (docs/rulings.md 33).
pub const REPLY_CAP: usize = (16 << 20) - (64 << 10);

/// The output kept of both streams of one command.
#[derive(Debug)]
pub struct KeptOutput {
    cap: usize,
    claim: Claim,
    kept: AtomicUsize,
    discarded: AtomicUsize,
}

impl KeptOutput {
    /// Keeps at most `cap` bytes, in pieces that `claim` allows.
    #[must_use]
    pub fn new(cap: usize, claim: Claim) -> Self {
        Self { cap, claim, kept: AtomicUsize::new(0), discarded: AtomicUsize::new(0) }
    }

    /// Number of bytes discarded because of the cap.
    #[must_use]
    pub fn discarded(&self) -> usize {
        self.discarded.load(Ordering::Relaxed)
    }

    /// Counts `count` bytes read, and returns how many of them may be kept. Both streams are read by one task, one at
    /// a time.
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

/// Collects one stream of a command.
#[derive(Debug)]
pub struct Collector<'a> {
    shared: &'a KeptOutput,
    /// The full pieces.
    pieces: Vec<Bytes>,
    piece: Piece,
    /// How many bytes of the current piece have been counted.
    before: usize,
    /// Buffer for bytes that are only discarded.
    rest: Option<BytesMut>,
}

impl<'a> Collector<'a> {
    #[must_use]
    pub fn new(shared: &'a KeptOutput) -> Self {
        Self { shared, pieces: Vec::new(), piece: Piece::default(), before: 0, rest: None }
    }

    /// The collected output in order. Dropping the pieces returns their memory to the budget.
    #[must_use]
    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.push();
        self.pieces
    }

    fn push(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        if !piece.as_ref().is_empty() {
            self.pieces.push(Bytes::from_owner(piece));
        }
    }
}

impl Target for Collector<'_> {
    async fn reserve(&mut self) {
        if self.shared.is_full() {
            let rest = self.rest.get_or_insert_default();
            rest.clear();
            return rest.reserve(DISCARD);
        }
        if self.piece.is_full() {
            let first = self.pieces.is_empty() && self.piece.as_ref().is_empty();
            self.push();
            self.piece = if first {
                Piece::First(BytesMut::with_capacity(LEAST))
            } else {
                let lease = self.shared.claim.lease().await;
                Piece::Leased(Pages::new(PIECE), lease)
            };
        }
        self.before = self.piece.as_ref().len();
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        match &mut self.rest {
            Some(rest) => rest,
            None => self.piece.buffer(),
        }
    }

    async fn consume(&mut self) {
        match &self.rest {
            Some(rest) => {
                self.shared.keep(rest.len());
            }
            None => {
                let count = self.piece.as_ref().len() - self.before;
                let fits = self.shared.keep(count);
                self.piece.truncate(self.before + fits);
            }
        }
    }
}

/// A part of a stream's output.
#[derive(Debug)]
enum Piece {
    /// The first piece, which does not count against the budget.
    First(BytesMut),
    /// A piece of the budget. Not on the heap, where thousands of freed pieces would leave gaps that are not returned
    /// to the kernel.
    Leased(Pages, #[allow(dead_code, reason = "it is held, not read")] Lease),
}

impl Piece {
    fn is_full(&self) -> bool {
        match self {
            Self::First(bytes) => bytes.len() == bytes.capacity(),
            Self::Leased(pages, _) => !pages.has_remaining_mut(),
        }
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        match self {
            Self::First(bytes) => bytes,
            Self::Leased(pages, _) => pages,
        }
    }

    fn truncate(&mut self, count: usize) {
        match self {
            Self::First(bytes) => bytes.truncate(count),
            Self::Leased(pages, _) => pages.truncate(count),
        }
    }
}

/// A piece without capacity.
impl Default for Piece {
    fn default() -> Self {
        Self::First(BytesMut::new())
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::First(bytes) => bytes,
            Self::Leased(pages, _) => pages.as_ref(),
        }
    }
}

/// Reads output and discards it.
#[derive(Debug, Default)]
pub struct Discard(BytesMut);

impl Target for Discard {
    async fn reserve(&mut self) {
        self.0.reserve(DISCARD);
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        &mut self.0
    }

    async fn consume(&mut self) {
        self.0.clear();
    }
}
