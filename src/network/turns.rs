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
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use self::queue::Queue;
use super::exec::Operation;
use super::many_ports::ManyPorts;
use crate::ids::SandboxId;
use crate::mutex::{Mutex, MutexGuard};
use crate::telemetry::{Stage, during, millis};

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
pub(super) const MIN_TURN: Duration = Duration::from_secs(1);
/// After this much waiting, a log line names what is being waited for; further lines follow every [`REPORT_EVERY`].
const FIRST_REPORT: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// ADDs and DELs have separate turns: DELs that hang must not keep other pods from starting.
pub(super) struct Limits {
    pub(super) adds: Turns,
    pub(super) dels: Turns,
    pub(super) many_ports: ManyPorts,
}

impl Limits {
    /// Creates both with nothing running or waiting.
    pub(super) fn new() -> Self {
        Self { adds: Turns::new(Operation::Add), dels: Turns::new(Operation::Del), many_ports: ManyPorts::default() }
    }
}

/// The turns of one operation.
pub(super) struct Turns {
    operation: Operation,
    queue: Mutex<Queue>,
    /// Notified whenever a run has to wait: a run of a namespace that has more slots may have to give way.
    someone_waits: Notify,
}

impl Turns {
    pub(super) fn new(operation: Operation) -> Self {
        Self { operation, queue: Mutex::default(), someone_waits: Notify::new() }
    }

    /// Waits until it is the turn of the pod's namespace, then drives `work` to completion.
    pub(super) async fn run<T>(&self, id: &SandboxId, namespace: &str, work: impl Future<Output = T>) -> T {
        let mut entry = during(Stage::Queue, self.begin(id, namespace)).await;
        let work = during(Stage::Cni, work);
        tokio::pin!(work);
        let since = Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = entry.turn_is_over() => {}
        }
        let (operation, sandbox, ms) = (self.operation, id, millis(since.elapsed()));
        tracing::warn!(%sandbox, %operation, ms, "cni plugin chain is still running, its slot is released");
        work.await
    }

    async fn begin<'a>(&'a self, id: &SandboxId, namespace: &'a str) -> QueueEntry<'a> {
        let (number, begins) = self.lock().enter(id, namespace);
        // The entry exists before the wait: if the caller is dropped, it leaves the queue, or releases the slot it got.
        let entry = QueueEntry { turns: self, namespace, number, in_turn: true };
        self.start_next_runs(self.lock());
        self.wait_and_log(id, begins).await;
        entry
    }

    /// Waits for the turn, and logs when that takes long.
    async fn wait_and_log(&self, id: &SandboxId, mut begins: oneshot::Receiver<()>) {
        let mut next = FIRST_REPORT;
        loop {
            tokio::select! {
                biased;
                // Fails only when the entry is dropped, and the entry belongs to this caller.
                _ = &mut begins => return,
                () = sleep(next) => self.log_waiting(id),
            }
            next = REPORT_EVERY;
        }
    }

    fn log_waiting(&self, sandbox: &SandboxId) {
        let (oldest, running) = {
            let queue = self.lock();
            let oldest = queue.oldest().map(|(id, since)| format!("{id} for {:?}", since.elapsed()));
            (oldest.unwrap_or_default(), queue.running())
        };
        let operation = self.operation;
        tracing::warn!(%sandbox, %operation, running, oldest, "sandbox waits for a cni slot");
    }

    fn start_next_runs(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.begin();
        let has_waiters = queue.has_waiters();
        drop(queue);
        if has_waiters {
            self.someone_waits.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

/// A caller's entry, in the queue or among the runs.
struct QueueEntry<'a> {
    turns: &'a Turns,
    namespace: &'a str,
    number: u64,
    /// Whether it holds a slot or still waits for one; false once its turn is over.
    in_turn: bool,
}

impl QueueEntry<'_> {
    /// Resolves when the slot has been released for other runs.
    async fn turn_is_over(&mut self) {
        let end = Instant::now() + TURN;
        sleep(MIN_TURN).await;
        loop {
            // Registered before the check below: a run that starts to wait after the check still causes a notification.
            let someone_waits = self.turns.someone_waits.notified();
            if self.give_way() {
                return;
            }
            if timeout_at(end, someone_waits).await.is_err() {
                break;
            }
        }
        let mut queue = self.turns.lock();
        self.in_turn = false;
        queue.end_turn(self.namespace);
        self.turns.start_next_runs(queue);
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
        self.turns.start_next_runs(queue);
        true
    }
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.lock();
        if !queue.leave(self.namespace, self.number) {
            queue.end(self.namespace, self.number, self.in_turn);
        }
        self.turns.start_next_runs(queue);
    }
}

#[cfg(test)]
mod tests;
