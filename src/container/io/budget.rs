//! The memory budget shared by all ExecSync replies, from the first byte read to the last byte sent.
//!
//! A reply grows piece by piece, and each piece needs a lease. If every reply could wait for a piece that another one
//! holds, they would deadlock. So most of the budget is divided into turns, each of which is enough for one whole
//! reply. The rest is a pool for small replies. A reply that finds the pool empty and gets a turn takes everything
//! that it still needs from its turn. So its command can finish, its pieces are released, and the next reply gets the
//! turn. There are several turns, because a command can keep its turn for long: until its timeout, or as long as a
//! child process that it left behind holds its output open.
//!
//! ```text
//! lease: pool not empty ──► from the pool
//!        pool empty ──► whichever comes first: a piece of the pool, or a turn ──► from the turn, to its end
//! ```
//!
//! A pod gets a piece of the pool only while it holds fewer than are free, and it never gets all turns ([`Slots`]):
//! its commands may exist only to hold them.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OnceCell;

use crate::slots::{Bounds, Slot, Slots};

/// Bytes of one lease.
pub const PIECE: usize = 64 * 1024;

/// How many times the number of free turns a pod may hold: six of the default seven turns. With a factor of 1, which
/// allows half of them, a flood of large replies of one pod took nearly twice as long; and a turn is released as soon
/// as its reply is sent.
const SHARE_FACTOR: usize = 4;

#[derive(Debug)]
pub struct ReplyBudget {
    /// One slot is one piece.
    pool: Slots,
    /// One slot is enough pieces for one whole reply.
    turns: Slots,
}

impl ReplyBudget {
    /// A budget of `bytes` in total: as many turns for the `largest` reply as fit, but at least one. The rest is the
    /// pool.
    #[must_use]
    pub fn new(bytes: usize, largest: usize) -> Arc<Self> {
        // A reply may need two pieces more than its bytes fill: stdout and stderr may each end with a partly used piece.
        let (pieces, whole) = (bytes / PIECE, largest.div_ceil(PIECE) + 2);
        let turns = (pieces / whole).max(1);
        let pool = pieces.saturating_sub(turns * whole);
        Arc::new(Self {
            pool: Slots::new(Bounds::shared(pool)),
            turns: Slots::new(Bounds { share_factor: SHARE_FACTOR, ..Bounds::shared(turns) }),
        })
    }

    /// The claim for one reply of a pod, which is still empty.
    #[must_use]
    pub fn claim(self: &Arc<Self>, sandbox: &str) -> Claim {
        Claim { budget: Arc::clone(self), sandbox: sandbox.into(), turn: OnceCell::new() }
    }

    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.free()
    }
}

/// The share of one reply in the budget.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<ReplyBudget>,
    sandbox: Box<str>,
    /// Set once this reply has a turn, which then serves both streams and everything that the reply still needs.
    turn: OnceCell<Arc<Slot>>,
}

impl Claim {
    /// Waits until the reply may hold one more piece.
    pub async fn lease(&self) -> Lease {
        if let Some(turn) = self.turn.get() {
            return Lease(Held::Turn(Arc::clone(turn)));
        }
        let held = tokio::select! {
            biased;
            piece = self.take(&self.budget.pool) => Held::Pool(piece),
            turn = self.turn.get_or_init(|| self.take(&self.budget.turns).map(Arc::new)) => Held::Turn(Arc::clone(turn)),
        };
        Lease(held)
    }

    async fn take(&self, slots: &Slots) -> Slot {
        slots.take(&self.sandbox, "").await.expect("any number may wait")
    }
}

/// The right to hold one piece, until it is dropped.
#[derive(Debug)]
pub struct Lease(#[allow(dead_code, reason = "it is held, not read")] Held);

#[derive(Debug)]
#[allow(dead_code, reason = "they are held, not read")]
enum Held {
    Pool(Slot),
    Turn(Arc<Slot>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_that_want_more_than_there_is_all_come_to_their_end() {
        // Each reply needs 4 pieces. The one turn has 4 + 2, the pool has 3.
        let budget = ReplyBudget::new(9 * PIECE, 4 * PIECE);
        let one = |pod: u32| {
            let claim = budget.claim(&(pod % 3).to_string());
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
        let (first, second) = (budget.claim("a"), budget.claim("b"));
        let mut held: Vec<Lease> = Vec::new();
        for _ in 0..4 {
            held.push(first.lease().now_or_never().unwrap());
        }
        // Two pieces came from the pool, two from the turn. The second reply gets the last piece of the pool and must
        // wait for more.
        held.push(second.lease().now_or_never().unwrap());
        assert!(second.lease().now_or_never().is_none());
        held.drain(..2);
        held.push(second.lease().now_or_never().unwrap());
        assert!(second.lease().now_or_never().is_none(), "it would have more than is left free");
        drop((held, first));
        assert!(second.lease().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_reply_that_keeps_its_turn_for_long_delays_no_other() {
        // Two turns, no pool.
        let budget = ReplyBudget::new(12 * PIECE, 4 * PIECE);
        let slow = budget.claim("a");
        let _kept = slow.lease().now_or_never().unwrap();
        for _ in 0..3 {
            let quick = budget.claim("b");
            let whole: Option<Vec<Lease>> = (0..4).map(|_| quick.lease().now_or_never()).collect();
            assert!(whole.is_some());
        }
    }

    #[tokio::test]
    async fn t6_a_pod_that_keeps_its_replies_leaves_pieces_and_turns_to_others() {
        // The number of turns and pieces of the default budget.
        let budget = ReplyBudget::new(128 << 20, crate::container::io::REPLY_CAP);
        let hanging: Vec<Claim> = (0..64).map(|_| budget.claim("hanging")).collect();
        let mut held = Vec::new();
        for claim in &hanging {
            while held.len() < 1 << 16
                && let Some(lease) = claim.lease().now_or_never()
                // A reply with a turn can have as many leases as it wants.
                && claim.turn.get().is_none()
            {
                held.push(lease);
            }
        }
        assert!(budget.free() >= 100 && budget.turns.free() >= 1, "{} and {}", budget.free(), budget.turns.free());
        let probe = budget.claim("probe");
        let whole: Option<Vec<Lease>> = (0..255).map(|_| probe.lease().now_or_never()).collect();
        assert!(whole.is_some());
    }

    #[tokio::test]
    async fn both_streams_of_a_reply_have_the_turn() {
        let budget = ReplyBudget::new(6 * PIECE, 4 * PIECE);
        let claim = budget.claim("a");
        let (stdout, stderr) = tokio::join!(claim.lease(), claim.lease());
        drop((stdout, stderr));
    }
}
