//! Limits how many operations of a kind run at a time: on the node, for one owner (a pod, a namespace), and on one
//! object of an owner.
//!
//! One owner must not use up a limit that all owners share. So an owner gets a shared slot only while it has fewer of
//! them than are free: a single owner can have half of all slots, two owners a third each, and so on. An owner without
//! any finds a free slot until there are as many owners as slots. In addition to the shared slots, each owner may have
//! a reserve, which only [`Slots::take`] uses.
//!
//! When a slot becomes free, a waiter is served: of the owner with the fewest shared slots, and among these of the one
//! that was served least recently. Within an owner the objects are ranked in the same way, and on an object waiters are
//! served in order of arrival. A waiter that is dropped leaves the queue at once. Between two calls no waiter is
//! entitled to a slot, so a new caller that gets one overtakes no waiter.
//!
//! Used for commands and streams (`runtime`), sessions and URLs (`streaming`), pulls (`images`), replies of ExecSync
//! and log writers (`container::io`), pods with many ports (`network`), and the measuring of layers (`stats`).

mod state;

use std::sync::Arc;

use tokio::sync::oneshot;

use state::{Grant, State, Ticket};

use crate::mutex::{Mutex, MutexGuard};

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Slots that all owners share.
    pub shared: usize,
    /// Slots of each owner in addition to the shared ones.
    pub reserve: usize,
    /// An owner may have this many times as many shared slots as are free. With 1, a single owner can have half of
    /// them.
    pub share_factor: usize,
    /// Slots on one object, both shared and from the reserve.
    pub per_object: usize,
    /// Maximum number of waiters. The queue is shared among owners by the same rule as the slots.
    pub waiting: usize,
}

impl Bounds {
    /// Shared slots only: no reserve, no limit for an object, and any number of waiters.
    #[must_use]
    pub const fn shared(count: usize) -> Self {
        Self { shared: count, reserve: 0, share_factor: 1, per_object: usize::MAX, waiting: usize::MAX }
    }
}

/// The queue is full, or this owner has its full share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Counts the slots in use. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<State<oneshot::Sender<Grant>>>>);

/// Permission for one operation, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    /// `None` once released.
    grant: Option<Grant>,
}

impl Slots {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(State::new(bounds))))
    }

    /// Returns a shared slot if the owner may have one now.
    #[must_use]
    pub fn try_take(&self, owner: &str, object: &str) -> Option<Slot> {
        let grant = self.lock().take_shared(owner, object)?;
        Some(self.slot(grant))
    }

    /// Returns a slot of the owner's reserve, or else a shared one. Waits for whichever becomes free first.
    ///
    /// # Errors
    /// [`QueueFull`], at once, if too many wait already.
    pub async fn take(&self, owner: &str, object: &str) -> Result<Slot, QueueFull> {
        let mut waiting = {
            let mut state = self.lock();
            if let Some(grant) = state.take(owner, object) {
                return Ok(self.slot(grant));
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.wait(owner, object, sender).ok_or(QueueFull)?;
            Waiting { slots: self.clone(), ticket: Some(ticket), receiver }
        };
        let grant = (&mut waiting.receiver).await.expect("the queue keeps it until it is served");
        waiting.ticket = None;
        Ok(self.slot(grant))
    }

    /// The number of free shared slots.
    #[must_use]
    pub fn free(&self) -> usize {
        self.lock().free()
    }

    fn slot(&self, grant: Grant) -> Slot {
        Slot { slots: self.clone(), grant: Some(grant) }
    }

    fn release(&self, grant: &Grant) {
        let mut state = self.lock();
        state.release(grant);
        while let Some((waiter, granted)) = state.next(grant) {
            // The receiver exists: a waiter that is dropped first removes itself from the queue, under this lock.
            let _ = waiter.send(granted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<oneshot::Sender<Grant>>> {
        self.0.lock()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.slots.release(&grant);
        }
    }
}

/// An entry in the queue.
struct Waiting {
    slots: Slots,
    /// `None` once the slot has been received.
    ticket: Option<Ticket>,
    receiver: oneshot::Receiver<Grant>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if self.slots.lock().leave(&ticket) {
            return;
        }
        // The waiter was granted a slot that it has not received.
        if let Ok(grant) = self.receiver.try_recv() {
            self.slots.release(&grant);
        }
    }
}

#[cfg(test)]
mod tests;
