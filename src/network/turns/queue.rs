//! The waiting and active runs by namespace, and which one is next. The queue has no timers and wakes only the runs
//! that begin.
//!
//! - A free slot goes to the waiting namespace that holds the fewest; among equals, to the one whose first waiter came
//!   first.
//! - A namespace that holds at least two slots more than a waiting one gives way to it. So the slots are divided evenly
//!   among any number of namespaces, while a single one has them all.
//! - A process cannot be preempted, so of the runs in total, a namespace has at most as many as are still free: one
//!   namespace alone gets half, two get a third each. There is always capacity for another namespace.
//!
//! `crate::slots` shares slots by the last of these rules too, but cannot replace this queue: here a run holds slots of two
//! limits, and has to release one of them while it goes on.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{AT_ONCE, IN_ALL};
use crate::ids::SandboxId;

/// The queue of one operation.
#[derive(Default)]
pub(super) struct Queue {
    namespaces: HashMap<String, Namespace>,
    /// In the order in which they began.
    running: Vec<Run>,
    in_turn: usize,
    /// The number that identifies the next caller.
    next: u64,
}

/// The share of one namespace; removed when it neither runs nor waits.
#[derive(Default)]
struct Namespace {
    in_turn: usize,
    /// Including those in their turn.
    running: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    number: u64,
    id: SandboxId,
    begins: oneshot::Sender<()>,
}

struct Run {
    number: u64,
    id: SandboxId,
    since: Instant,
}

impl Queue {
    /// Adds a waiter. Returns its number, and a channel that signals that it has begun.
    pub(super) fn enter(&mut self, id: &SandboxId, namespace: &str) -> (u64, oneshot::Receiver<()>) {
        let (begins, begun) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let waiting = Waiting { number, id: id.clone(), begins };
        self.namespaces.entry(namespace.to_owned()).or_default().waiting.push_back(waiting);
        (number, begun)
    }

    /// Starts as many waiting runs as the limits allow.
    pub(super) fn begin(&mut self) {
        while self.in_turn < AT_ONCE {
            let free = self.free();
            let waiting = self.namespaces.values_mut().filter(|namespace| namespace.may_begin(free));
            let Some(namespace) = waiting.min_by_key(|namespace| (namespace.in_turn, namespace.first())) else {
                return;
            };
            let Some(Waiting { number, id, begins }) = namespace.waiting.pop_front() else { return };
            namespace.in_turn += 1;
            namespace.running += 1;
            self.in_turn += 1;
            self.running.push(Run { number, id, since: Instant::now() });
            // A caller that has dropped its receiver is about to release the slot.
            let _ = begins.send(());
        }
    }

    /// Whether a run of this namespace should release its slot for another namespace.
    pub(super) fn gives_way(&self, namespace: &str) -> bool {
        let free = self.free();
        let most = self.namespaces.get(namespace).map_or(0, |own| own.in_turn);
        self.namespaces.values().any(|other| other.may_begin(free) && other.in_turn + 2 <= most)
    }

    /// Removes a waiter. Returns false when it has already begun.
    pub(super) fn leave(&mut self, namespace: &str, number: u64) -> bool {
        let Some(own) = self.namespaces.get_mut(namespace) else { return false };
        let Some(at) = own.waiting.iter().position(|waiting| waiting.number == number) else { return false };
        own.waiting.remove(at);
        self.remove_if_idle(namespace);
        true
    }

    /// Releases a slot while its run continues: the run is late, or gives way.
    pub(super) fn end_turn(&mut self, namespace: &str) {
        self.in_turn -= 1;
        if let Some(own) = self.namespaces.get_mut(namespace) {
            own.in_turn -= 1;
        }
    }

    /// Removes a run that has ended.
    pub(super) fn end(&mut self, namespace: &str, number: u64, in_turn: bool) {
        if in_turn {
            self.end_turn(namespace);
        }
        self.running.retain(|run| run.number != number);
        if let Some(own) = self.namespaces.get_mut(namespace) {
            own.running -= 1;
        }
        self.remove_if_idle(namespace);
    }

    /// Whether any run waits.
    pub(super) fn has_waiters(&self) -> bool {
        self.namespaces.values().any(|namespace| !namespace.waiting.is_empty())
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// The active run that began first.
    pub(super) fn oldest(&self) -> Option<(&SandboxId, Instant)> {
        self.running.first().map(|run| (&run.id, run.since))
    }

    /// How many more runs may be active.
    fn free(&self) -> usize {
        IN_ALL.saturating_sub(self.running.len())
    }

    fn remove_if_idle(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some_and(|own| own.running == 0 && own.waiting.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }
}

impl Namespace {
    fn may_begin(&self, free: usize) -> bool {
        !self.waiting.is_empty() && self.running < free
    }

    /// The number of the first waiter: a lower number came earlier.
    fn first(&self) -> u64 {
        self.waiting.front().map_or(u64::MAX, |waiting| waiting.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(queue: &mut Queue, namespace: &str, count: usize) -> Vec<u64> {
        (0..count).map(|_| queue.enter(&SandboxId::random(), namespace).0).collect()
    }

    fn in_turn(queue: &Queue, namespace: &str) -> usize {
        queue.namespaces.get(namespace).map_or(0, |own| own.in_turn)
    }

    /// The numbers of the active runs, in the order in which they began.
    fn begun(queue: &mut Queue) -> Vec<u64> {
        queue.begin();
        queue.running.iter().map(|run| run.number).collect()
    }

    #[tokio::test]
    async fn t7_a_free_turn_goes_to_the_namespace_with_the_fewest() {
        let mut queue = Queue::default();
        let a = enter(&mut queue, "a", 40);
        assert_eq!(begun(&mut queue), a[..AT_ONCE]);
        let b = enter(&mut queue, "b", 2);
        let c = enter(&mut queue, "c", 1);
        assert_eq!(begun(&mut queue).len(), AT_ONCE);
        for number in &a[..4] {
            queue.end("a", *number, true);
        }
        // First each namespace's first waiter, although all of these came after a's; then the namespace with the fewest
        // slots.
        assert_eq!(begun(&mut queue)[AT_ONCE - 4..], [b[0], c[0], b[1], a[AT_ONCE]]);
    }

    #[tokio::test]
    async fn t7_turns_become_even_and_no_more_even_than_that() {
        let mut queue = Queue::default();
        enter(&mut queue, "a", 100);
        queue.begin();
        assert!(!queue.gives_way("a"), "to nobody");
        for (other, even) in [("b", [8, 8, 0]), ("c", [5, 5, 6])] {
            enter(&mut queue, other, 100);
            while let Some(name) = ["a", "b", "c"].into_iter().find(|name| queue.gives_way(name)) {
                queue.end_turn(name);
                queue.begin();
            }
            let mut held = ["a", "b", "c"].map(|name| in_turn(&queue, name));
            held[..2].sort_unstable();
            assert!(held == even || held == [5, 6, 5], "{held:?}");
        }
    }

    #[tokio::test]
    async fn t7_no_namespace_has_more_places_than_are_free() {
        let mut queue = Queue::default();
        let mut counts = Vec::new();
        for name in ["a", "b", "c"] {
            enter(&mut queue, name, 2 * IN_ALL);
            // All of them hang.
            loop {
                let before = queue.running();
                queue.begin();
                if queue.running() == before {
                    break;
                }
                for name in ["a", "b", "c"] {
                    while in_turn(&queue, name) > 0 {
                        queue.end_turn(name);
                    }
                }
            }
            counts.push(queue.namespaces[name].running);
        }
        assert_eq!(counts, [IN_ALL / 2, IN_ALL / 4, IN_ALL / 8]);
    }

    #[tokio::test]
    async fn what_has_ended_or_left_is_forgotten() {
        let mut queue = Queue::default();
        let numbers = enter(&mut queue, "a", AT_ONCE + 1);
        queue.begin();
        assert!(!queue.leave("a", numbers[0]) && queue.leave("a", numbers[AT_ONCE]));
        for number in &numbers[..AT_ONCE] {
            queue.end("a", *number, true);
        }
        assert!(queue.namespaces.is_empty() && queue.running.is_empty() && queue.in_turn == 0);
    }
}
