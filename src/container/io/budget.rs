//! The memory that replies of ExecSync may hold, all together, from the first byte that is read to the last one that
//! is sent.
//!
//! A reply grows piece by piece, and each piece needs a lease. Replies that all wait for the piece that another one
//! holds would wait for ever; so most of the budget is set aside as turns, each of which is enough for one whole reply.
//! Small replies live in the pool of what is left; whoever finds that empty and has a turn takes all that it still needs
//! from there. Its command comes to its end, its pieces go, the next one's turn comes. Several turns, since a command
//! may keep its own for long: until its timeout, or as long as a child that it left behind holds its output.
//!
//! ```text
//! lease: pool not empty ──► from the pool
//!        pool empty ──► whichever comes first: a piece of the pool, or a turn ──► from the turn, to its end
//! ```

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Bytes of one lease.
pub const PIECE: usize = 64 * 1024;

/// What all replies share.
#[derive(Debug)]
pub struct ReplyBudget {
    /// A permit is one piece.
    pool: Arc<Semaphore>,
    /// A permit is room for one whole reply.
    turns: Arc<Semaphore>,
}

impl ReplyBudget {
    /// `bytes` in all: as many turns for the `largest` reply as fit, one at least, and the rest is the pool.
    #[must_use]
    pub fn new(bytes: usize, largest: usize) -> Arc<Self> {
        // Each of a reply's two streams ends within a piece.
        let (pieces, whole) = (bytes / PIECE, largest.div_ceil(PIECE) + 2);
        let turns = (pieces / whole).max(1);
        let pool = pieces.saturating_sub(turns * whole);
        Arc::new(Self { pool: Arc::new(Semaphore::new(pool)), turns: Arc::new(Semaphore::new(turns)) })
    }

    /// For one reply, with nothing in it yet.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), turn: OnceCell::new() }
    }

    /// Pieces of the pool that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.available_permits()
    }
}

/// One reply's part in the budget.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<ReplyBudget>,
    /// Set when this reply has a turn; then for both streams, and for all that it still needs.
    turn: OnceCell<Arc<OwnedSemaphorePermit>>,
}

impl Claim {
    /// Waits for leave to hold one more piece.
    pub async fn lease(&self) -> Lease {
        if let Some(turn) = self.turn.get() {
            return Lease(Held::Turn(Arc::clone(turn)));
        }
        let held = tokio::select! {
            biased;
            permit = acquire(&self.budget.pool) => Held::Pool(permit),
            turn = self.turn.get_or_init(|| acquire(&self.budget.turns).map(Arc::new)) => Held::Turn(Arc::clone(turn)),
        };
        Lease(held)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("never closed")
}

/// Leave to hold one piece, until it is dropped.
#[derive(Debug)]
pub struct Lease(#[allow(dead_code, reason = "it is held, not read")] Held);

#[derive(Debug)]
#[allow(dead_code, reason = "they are held, not read")]
enum Held {
    Pool(OwnedSemaphorePermit),
    Turn(Arc<OwnedSemaphorePermit>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_that_want_more_than_there_is_all_come_to_their_end() {
        // Each wants 4 pieces; 4 + 2 are the one turn and 3 the pool.
        let budget = ReplyBudget::new(9 * PIECE, 4 * PIECE);
        let one = |_| {
            let claim = budget.claim();
            async move {
                let mut held = Vec::new();
                for _ in 0..4 {
                    held.push(claim.lease().await);
                    tokio::task::yield_now().await;
                }
            }
        };
        let all = futures_util::future::join_all((0..50).map(one));
        tokio::time::timeout(std::time::Duration::from_secs(5), all).await.unwrap();
        assert_eq!(budget.free(), 3);
    }

    #[tokio::test]
    async fn no_more_is_held_than_pool_and_turns() {
        let budget = ReplyBudget::new(9 * PIECE, 4 * PIECE);
        let (first, second) = (budget.claim(), budget.claim());
        let mut held: Vec<Lease> = Vec::new();
        for _ in 0..4 {
            held.push(first.lease().now_or_never().unwrap());
        }
        // The fourth was of the turn, which the second now waits for.
        assert!(second.lease().now_or_never().is_none());
        drop(held.remove(0));
        held.push(second.lease().now_or_never().unwrap());
        assert!(second.lease().now_or_never().is_none());
        drop((held, first));
        assert!(second.lease().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_keeps_a_turn_for_long_holds_back_nobody_else() {
        // Two turns, no pool.
        let budget = ReplyBudget::new(12 * PIECE, 4 * PIECE);
        let slow = budget.claim();
        let _kept = slow.lease().now_or_never().unwrap();
        for _ in 0..3 {
            let quick = budget.claim();
            let whole: Option<Vec<Lease>> = (0..4).map(|_| quick.lease().now_or_never()).collect();
            assert!(whole.is_some());
        }
    }

    #[tokio::test]
    async fn both_streams_of_a_reply_have_the_turn() {
        let budget = ReplyBudget::new(6 * PIECE, 4 * PIECE);
        let claim = budget.claim();
        let (stdout, stderr) = tokio::join!(claim.lease(), claim.lease());
        drop((stdout, stderr));
    }
}
