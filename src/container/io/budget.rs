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
//!
//! A pod has no more of the pool than is left free, and never all turns ([`Slots`]): its commands may be there only to hold
//! them.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::OnceCell;

use crate::slots::{Bounds, Slot, Slots};

/// Bytes of one lease.
pub const PIECE: usize = 64 * 1024;

/// How many times what is left free a pod may have of the turns: of the seven that there are by default, six. Half of them made a
/// flood of one pod's large replies take nearly twice as long, and a turn comes back as soon as its reply is sent.
const GREED: usize = 4;

/// What all replies share.
#[derive(Debug)]
pub struct ReplyBudget {
    /// A slot is one piece.
    pool: Slots,
    /// A slot is room for one whole reply.
    turns: Slots,
}

impl ReplyBudget {
    /// `bytes` in all: as many turns for the `largest` reply as fit, one at least, and the rest is the pool.
    #[must_use]
    pub fn new(bytes: usize, largest: usize) -> Arc<Self> {
        // Each of a reply's two streams ends within a piece.
        let (pieces, whole) = (bytes / PIECE, largest.div_ceil(PIECE) + 2);
        let turns = (pieces / whole).max(1);
        let pool = pieces.saturating_sub(turns * whole);
        Arc::new(Self {
            pool: Slots::new(Bounds::shared(pool)),
            turns: Slots::new(Bounds { greed: GREED, ..Bounds::shared(turns) }),
        })
    }

    /// For one reply of a pod, with nothing in it yet.
    #[must_use]
    pub fn claim(self: &Arc<Self>, sandbox: &str) -> Claim {
        Claim { budget: Arc::clone(self), sandbox: sandbox.into(), turn: OnceCell::new() }
    }

    /// Pieces of the pool that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.free()
    }
}

/// One reply's part in the budget.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<ReplyBudget>,
    sandbox: Box<str>,
    /// Set when this reply has a turn; then for both streams, and for all that it still needs.
    turn: OnceCell<Arc<Slot>>,
}

impl Claim {
    /// Waits for leave to hold one more piece.
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

/// Leave to hold one piece, until it is dropped.
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
        // Each wants 4 pieces; 4 + 2 are the one turn and 3 the pool.
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
        // Two were of the pool, two of the turn; the second finds the last piece, and waits for more.
        held.push(second.lease().now_or_never().unwrap());
        assert!(second.lease().now_or_never().is_none());
        held.drain(..2);
        held.push(second.lease().now_or_never().unwrap());
        assert!(second.lease().now_or_never().is_none(), "it would have more than is left free");
        drop((held, first));
        assert!(second.lease().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_keeps_a_turn_for_long_holds_back_nobody_else() {
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
        // As many turns and pieces as there are by default.
        let budget = ReplyBudget::new(128 << 20, crate::container::io::REPLY_CAP);
        let hanging: Vec<Claim> = (0..64).map(|_| budget.claim("hanging")).collect();
        let mut held = Vec::new();
        for claim in &hanging {
            while held.len() < 1 << 16
                && let Some(lease) = claim.lease().now_or_never()
                // One that has a turn may have all that it wants.
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
