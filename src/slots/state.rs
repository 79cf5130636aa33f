//! Decides which owner may have a slot and which waiter is served next. It only counts: no lock, no waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Bounds;

/// The order in which waiters are served: by the number of slots in use, then by the last time of being served. Lowest
/// first.
type Rank = (usize, u64);
/// The candidates in the order in which they are served. No two ranks are equal, because each time has its own number.
type Order = BTreeMap<Rank, Arc<str>>;

/// All slots in use, and all waiters. `W` is the handle by which a waiter is notified.
#[derive(Debug)]
pub(super) struct State<W> {
    bounds: Bounds,
    /// Free shared slots.
    free: usize,
    /// Free space in the queue.
    queue_space: usize,
    /// The owners that use a slot or have a waiter.
    owners: HashMap<Arc<str>, Owner<W>>,
    /// Owners with a waiter that needs only a shared slot, because its object is below its limit.
    order: Order,
    /// The logical time: numbers each service and each waiter.
    clock: u64,
}

#[derive(Debug)]
struct Owner<W> {
    counts: Counts,
    objects: HashMap<Arc<str>, Object<W>>,
    /// Objects with a waiter that are below their limit.
    order: Order,
}

/// The numbers of one owner.
#[derive(Debug)]
struct Counts {
    /// Slots in use of the owner's reserve.
    reserve: usize,
    /// Shared slots in use.
    shared: usize,
    waiting: usize,
    turn: u64,
    /// The owner's rank in [`State::order`].
    rank: Option<Rank>,
}

#[derive(Debug)]
struct Object<W> {
    taken: usize,
    turn: u64,
    /// The object's rank in [`Owner::order`].
    rank: Option<Rank>,
    /// In order of arrival.
    waiting: BTreeMap<u64, W>,
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) owner: Arc<str>,
    pub(super) object: Arc<str>,
    pub(super) is_shared: bool,
}

/// Identifies a waiter.
#[derive(Debug)]
pub(super) struct Ticket {
    owner: Arc<str>,
    object: Arc<str>,
    number: u64,
}

impl<W> State<W> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (free, queue_space) = (bounds.shared, bounds.waiting);
        Self { bounds, free, queue_space, owners: HashMap::new(), order: Order::new(), clock: 0 }
    }

    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// The number of shared slots that an owner may have now: as many as are free, times `share_factor`.
    fn share(&self) -> usize {
        self.free.saturating_mul(self.bounds.share_factor)
    }

    /// Takes a shared slot if the owner may have one.
    pub(super) fn take_shared(&mut self, owner: &str, object: &str) -> Option<Grant> {
        let known = self.owners.get(owner);
        let has_share = known.map_or(0, |owner| owner.counts.shared) < self.share();
        let may = has_share && is_below_object_limit(known, object, &self.bounds);
        may.then(|| self.occupy(owner, object, true))
    }

    /// Takes a slot of the reserve, or else a shared one, if the owner may have either.
    pub(super) fn take(&mut self, owner: &str, object: &str) -> Option<Grant> {
        let known = self.owners.get(owner);
        let has_reserve = known.map_or(0, |owner| owner.counts.reserve) < self.bounds.reserve;
        if has_reserve && is_below_object_limit(known, object, &self.bounds) {
            return Some(self.occupy(owner, object, false));
        }
        self.take_shared(owner, object)
    }

    /// Adds a waiter at the end of its object's queue. `None` if the owner may have no more waiters.
    pub(super) fn wait(&mut self, owner: &str, object: &str, waiter: W) -> Option<Ticket> {
        if self.owners.get(owner).map_or(0, |owner| owner.counts.waiting) >= self.queue_space {
            return None;
        }
        self.queue_space -= 1;
        let (owner, object) = self.names(owner, object);
        let number = self.tick();
        let (counts, of_object) = self.entry(&owner, &object);
        counts.waiting += 1;
        of_object.waiting.insert(number, waiter);
        self.settle(&owner, &object);
        Some(Ticket { owner, object, number })
    }

    /// Removes a waiter. Returns false if it has been served already.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> bool {
        let Some(owner) = self.owners.get_mut(&ticket.owner) else { return false };
        let Some(object) = owner.objects.get_mut(&ticket.object) else { return false };
        if object.waiting.remove(&ticket.number).is_none() {
            return false;
        }
        owner.counts.waiting -= 1;
        self.queue_space += 1;
        self.settle(&ticket.owner, &ticket.object);
        true
    }

    /// Releases a slot. The caller must then call [`State::next`] until it returns `None`.
    pub(super) fn release(&mut self, grant: &Grant) {
        self.free += usize::from(grant.is_shared);
        let (counts, object) = self.entry(&grant.owner, &grant.object);
        object.taken -= 1;
        if grant.is_shared {
            counts.shared -= 1;
        } else {
            counts.reserve -= 1;
        }
        self.settle(&grant.owner, &grant.object);
    }

    /// Serves the next waiter after a slot was released. Returns the waiter and its slot.
    pub(super) fn next(&mut self, released: &Grant) -> Option<(W, Grant)> {
        // The owner's reserve or the object may have become free.
        let owner = self.owners.get(&released.owner);
        if owner.is_some_and(|owner| owner.counts.reserve < self.bounds.reserve && !owner.order.is_empty()) {
            return self.serve(&released.owner, false);
        }
        let ((shared, _), owner) = self.order.first_key_value()?;
        if *shared >= self.share() {
            return None;
        }
        let owner = Arc::clone(owner);
        self.serve(&owner, true)
    }

    fn serve(&mut self, name: &Arc<str>, is_shared: bool) -> Option<(W, Grant)> {
        let owner = self.owners.get_mut(name)?;
        let object = Arc::clone(owner.order.values().next()?);
        let (_, waiter) = owner.objects.get_mut(&object)?.waiting.pop_first()?;
        owner.counts.waiting -= 1;
        self.queue_space += 1;
        Some((waiter, self.occupy(name, &object, is_shared)))
    }

    fn occupy(&mut self, owner: &str, object: &str, is_shared: bool) -> Grant {
        self.free -= usize::from(is_shared);
        let (owner, object) = self.names(owner, object);
        let turn = self.tick();
        let (counts, of_object) = self.entry(&owner, &object);
        (counts.turn, of_object.turn) = (turn, turn);
        of_object.taken += 1;
        if is_shared {
            counts.shared += 1;
        } else {
            counts.reserve += 1;
        }
        self.settle(&owner, &object);
        Grant { owner, object, is_shared }
    }

    /// Both names, shared with the stored ones if these exist.
    fn names(&self, owner: &str, object: &str) -> (Arc<str>, Arc<str>) {
        let known = self.owners.get_key_value(owner);
        let known_object = known.and_then(|(_, owner)| owner.objects.get_key_value(object));
        let owner = known.map_or_else(|| Arc::from(owner), |(name, _)| Arc::clone(name));
        (owner, known_object.map_or_else(|| Arc::from(object), |(name, _)| Arc::clone(name)))
    }

    fn entry(&mut self, owner: &Arc<str>, object: &Arc<str>) -> (&mut Counts, &mut Object<W>) {
        let turn = self.tick();
        let owner = self.owners.entry(Arc::clone(owner)).or_insert_with(|| Owner {
            counts: Counts { reserve: 0, shared: 0, waiting: 0, turn, rank: None },
            objects: HashMap::new(),
            order: Order::new(),
        });
        let object = owner.objects.entry(Arc::clone(object)).or_insert_with(|| Object {
            taken: 0,
            turn,
            rank: None,
            waiting: BTreeMap::new(),
        });
        (&mut owner.counts, object)
    }

    /// Updates the ranks of an owner and its object after one of their counts has changed. Removes either if it is not
    /// in use any more.
    fn settle(&mut self, name: &Arc<str>, object_name: &Arc<str>) {
        let Some(owner) = self.owners.get_mut(name) else { return };
        if let Some(object) = owner.objects.get_mut(object_name) {
            let may = !object.waiting.is_empty() && object.taken < self.bounds.per_object;
            let rank = may.then_some((object.taken, object.turn));
            rerank(&mut owner.order, &mut object.rank, rank, object_name);
            if object.taken == 0 && object.waiting.is_empty() {
                owner.objects.remove(object_name);
            }
        }
        let rank = (!owner.order.is_empty()).then_some((owner.counts.shared, owner.counts.turn));
        rerank(&mut self.order, &mut owner.counts.rank, rank, name);
        if owner.objects.is_empty() {
            self.owners.remove(name);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

fn is_below_object_limit<W>(owner: Option<&Owner<W>>, object: &str, bounds: &Bounds) -> bool {
    let object = owner.and_then(|owner| owner.objects.get(object));
    object.map_or(0, |object| object.taken) < bounds.per_object
}

fn rerank(order: &mut Order, current: &mut Option<Rank>, rank: Option<Rank>, name: &Arc<str>) {
    if *current == rank {
        return;
    }
    if let Some(before) = current.take() {
        order.remove(&before);
    }
    if let Some(rank) = rank {
        order.insert(rank, Arc::clone(name));
    }
    *current = rank;
}

#[cfg(test)]
impl<W> State<W> {
    /// Whether no slot is in use, nothing waits, and no owner is stored.
    pub(super) fn is_as_new(&self) -> bool {
        let untouched = self.free == self.bounds.shared && self.queue_space == self.bounds.waiting;
        untouched && self.owners.is_empty() && self.order.is_empty()
    }
}
