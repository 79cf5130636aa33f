//! Limits how many ADDs and DELs run at a time, and decides which one starts next.
//!
//! ```text
//! waiting --a slot is free--> in its turn --finished within TURN--> done
//!                                         --TURN is over, or another namespace needs the slot--> late --> done
//! ```
//!
//! Each run holds one of [`AT_ONCE`] slots for its turn. More plugins at a time would only queue on the kernel's rtnl
//! lock and compete for the CPUs. A plugin that hangs (Multus, when a delegate does not respond) does neither, so it
//! must not make other pods wait: when its turn is over, the slot is free for the next run, and the plugin continues
//! until its own deadline. Each run is a process, so the number of all runs, including late ones, is bounded too
//! ([`IN_ALL`]).
//!
//! Namespaces share both limits fairly ([`queue`]): a tenant whose pods have slow chains only delays itself.

mod queue;

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use self::queue::Queue;
use super::exec::Verb;
use super::many_ports::ManyPorts;
use crate::ids::SandboxId;
use crate::telemetry::{Stage, during};

/// How many runs are in their turn at a time. A healthy plugin takes a fraction of a second.
pub(super) const AT_ONCE: usize = 16;
/// How many runs there are in total, including late ones. One namespace alone gets at most half of them, which is still
/// more than kubelet's default limit of pods on a node.
pub(super) const IN_ALL: usize = 256;
/// How long a run counts towards [`AT_ONCE`]. Well above the time a plugin takes in a burst, so that a burst stays
/// bounded: at most 16 more runs begin every 3 s.
pub(super) const TURN: Duration = Duration::from_secs(3);
/// The minimum turn, even while a namespace with fewer slots waits. Above the time a healthy plugin takes, so that a
/// burst of many namespaces is limited to 16 at a time as well.
pub(super) const SURE: Duration = Duration::from_secs(1);
/// After this much waiting, a log line names what is being waited for; further lines follow every [`SAY_AGAIN`].
const SAY: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// ADDs and DELs have separate turns: DELs that hang must not keep other pods from starting.
pub(super) struct Both {
    pub(super) adds: Turns,
    pub(super) dels: Turns,
    pub(super) many_ports: ManyPorts,
}

impl Both {
    /// Creates both with nothing running or waiting.
    pub(super) fn new() -> Self {
        Self { adds: Turns::new(Verb::Add), dels: Turns::new(Verb::Del), many_ports: ManyPorts::default() }
    }
}

/// The turns of one operation.
pub(super) struct Turns {
    verb: Verb,
    queue: Mutex<Queue>,
    /// Notified whenever a run has to wait: a run of a namespace that has more slots may have to give way.
    waited_for: Notify,
}

impl Turns {
    pub(super) fn new(verb: Verb) -> Self {
        Self { verb, queue: Mutex::default(), waited_for: Notify::new() }
    }

    /// Waits until it is the turn of the pod's namespace, then drives `work` to completion.
    pub(super) async fn run<T>(&self, id: &SandboxId, namespace: &str, work: impl Future<Output = T>) -> T {
        let mut place = during(Stage::Queue, self.begin(id, namespace)).await;
        let work = during(Stage::Cni, work);
        tokio::pin!(work);
        let since = Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = place.turn_is_over() => {}
        }
        let (verb, sandbox, after) = (self.verb, id, since.elapsed());
        tracing::warn!(%sandbox, %verb, ?after, "cni: it has not ended yet and goes on; others need not wait for it");
        work.await
    }

    async fn begin<'a>(&'a self, id: &SandboxId, namespace: &'a str) -> Place<'a> {
        let (number, begins) = self.lock().enter(id, namespace);
        // The place exists before the wait: if the caller is dropped, it leaves the queue, or releases the slot it got.
        let place = Place { turns: self, namespace, number, in_turn: true };
        self.let_begin(self.lock());
        self.telling(id, begins).await;
        place
    }

    /// Waits for the turn, and logs when that takes long.
    async fn telling(&self, id: &SandboxId, mut begins: oneshot::Receiver<()>) {
        let mut next = SAY;
        loop {
            tokio::select! {
                biased;
                // Fails only when the place is dropped, and the place belongs to this caller.
                _ = &mut begins => return,
                () = sleep(next) => self.tell(id),
            }
            next = SAY_AGAIN;
        }
    }

    fn tell(&self, sandbox: &SandboxId) {
        let (oldest, running) = {
            let queue = self.lock();
            let oldest = queue.oldest().map(|(id, since)| format!("{id} for {:?}", since.elapsed()));
            (oldest.unwrap_or_default(), queue.running())
        };
        let verb = self.verb;
        tracing::warn!(%sandbox, %verb, running, oldest, "cni: it waits for its turn, behind those that run");
    }

    fn let_begin(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.begin();
        let waits = queue.waits();
        drop(queue);
        if waits {
            self.waited_for.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's entry, in the queue or among the runs.
struct Place<'a> {
    turns: &'a Turns,
    namespace: &'a str,
    number: u64,
    /// Whether it holds a slot or still waits for one; false once its turn is over.
    in_turn: bool,
}

impl Place<'_> {
    /// Resolves when the slot has been released for other runs.
    async fn turn_is_over(&mut self) {
        let end = Instant::now() + TURN;
        sleep(SURE).await;
        loop {
            // Registered before the check below: a run that starts to wait after the check still causes a notification.
            let waited_for = self.turns.waited_for.notified();
            if self.give_way() {
                return;
            }
            if timeout_at(end, waited_for).await.is_err() {
                break;
            }
        }
        let mut queue = self.turns.lock();
        self.in_turn = false;
        queue.end_turn(self.namespace);
        self.turns.let_begin(queue);
    }

    /// Releases the slot if a namespace that has fewer waits. Check and release are one step under the lock; otherwise
    /// several runs would give way to the same waiter.
    fn give_way(&mut self) -> bool {
        let mut queue = self.turns.lock();
        if !queue.gives_way(self.namespace) {
            return false;
        }
        self.in_turn = false;
        queue.end_turn(self.namespace);
        self.turns.let_begin(queue);
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.lock();
        if !queue.leave(self.namespace, self.number) {
            queue.end(self.namespace, self.number, self.in_turn);
        }
        self.turns.let_begin(queue);
    }
}

#[cfg(test)]
mod tests;
