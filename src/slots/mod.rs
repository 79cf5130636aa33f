//! How much of something may go on at once: on the node, for one owner (a pod, a namespace), and on one object of it.
//!
//! A limit that all share must not be used up by one of them. So an owner gets a shared slot only while it has fewer of
//! them than are free: alone it can have half of all, beside another one a third, and so on. Whoever has none yet finds
//! one free, until there are as many owners as slots. Beside these, each owner may have a reserve of its own, which only
//! [`Slots::take`] uses.
//!
//! Who waits is served when a slot comes free: the owner that has the fewest shared slots, of these the one whose last
//! turn is the longest ago; within an owner likewise by object, and on an object in the order of coming. A waiter that is
//! dropped is out of the queue at once. At rest nobody waits who could have a slot, so that who comes anew overtakes
//! nobody.
//!
//! Used by whatever has such a limit: commands and streams (`runtime`), sessions and URLs (`streaming`), pulls
//! (`images`), replies of ExecSync and log writers (`container::io`), walks of layers (`stats`).

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use state::{Place, State, Ticket};

/// How many slots there are.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of all owners together.
    pub shared: usize,
    /// Of each owner for itself, beside the shared ones.
    pub reserve: usize,
    /// How many times what is left free an owner may have of the shared ones: with 1, one alone has half of them.
    pub greed: usize,
    /// On one object, shared or not.
    pub per_object: usize,
    /// How many may wait; the places in the queue are shared by the same rule.
    pub waiting: usize,
}

impl Bounds {
    /// Shared slots alone: no reserve, no bound for an object, and any number may wait.
    #[must_use]
    pub const fn shared(count: usize) -> Self {
        Self { shared: count, reserve: 0, greed: 1, per_object: usize::MAX, waiting: usize::MAX }
    }
}

/// The queue is full, or as much of it as this owner may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

/// Counts what goes on. Clones are one.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<State<oneshot::Sender<Place>>>>);

/// Leave for one, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    /// Taken out when it is given back.
    place: Option<Place>,
}

impl Slots {
    /// None taken.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(State::new(bounds))))
    }

    /// A shared slot, if one may be had now.
    #[must_use]
    pub fn try_take(&self, owner: &str, object: &str) -> Option<Slot> {
        let place = self.lock().take_shared(owner, object)?;
        Some(self.slot(place))
    }

    /// A slot of the owner's reserve, or a shared one; waits for whichever comes first.
    ///
    /// # Errors
    /// [`Crowded`], at once, when so many wait already.
    pub async fn take(&self, owner: &str, object: &str) -> Result<Slot, Crowded> {
        let mut waiting = {
            let mut state = self.lock();
            if let Some(place) = state.take(owner, object) {
                return Ok(self.slot(place));
            }
            let (granted, grant) = oneshot::channel();
            let ticket = state.wait(owner, object, granted).ok_or(Crowded)?;
            Waiting { slots: self.clone(), ticket: Some(ticket), grant }
        };
        let place = (&mut waiting.grant).await.expect("the queue keeps it until it is served");
        waiting.ticket = None;
        Ok(self.slot(place))
    }

    /// Shared slots that nobody has.
    #[must_use]
    pub fn free(&self) -> usize {
        self.lock().free()
    }

    fn slot(&self, place: Place) -> Slot {
        Slot { slots: self.clone(), place: Some(place) }
    }

    fn give_back(&self, place: &Place) {
        let mut state = self.lock();
        state.give_back(place);
        while let Some((waiter, granted)) = state.next(place) {
            // It is there to be told: a waiter that goes takes itself out of the queue first, under this lock.
            let _ = waiter.send(granted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<oneshot::Sender<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.slots.give_back(&place);
        }
    }
}

/// A place in the queue.
struct Waiting {
    slots: Slots,
    /// None when it has what it waited for.
    ticket: Option<Ticket>,
    grant: oneshot::Receiver<Place>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if self.slots.lock().leave(&ticket) {
            return;
        }
        // It was served, and has not looked.
        if let Ok(place) = self.grant.try_recv() {
            self.slots.give_back(&place);
        }
    }
}

#[cfg(test)]
mod tests;
