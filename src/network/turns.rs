//! How many runs of a verb there are at a time, and whose is next.
//!
//! ```text
//! waiting --a turn is free--> in its turn --ended within TURN--> done
//!                                         --TURN is over, or it is another namespace's--> late --> done
//! ```
//!
//! A burst of pods takes turns: more plugins at once only queue on the kernel's rtnl lock and take the CPUs from each
//! other. A plugin that hangs (Multus, when a delegate does not answer) does neither, so it must not keep other pods
//! waiting: when its turn is over the next one begins, and it goes on to its own deadline. All that run, the late ones
//! too, are bounded as well: each is a process.
//!
//! Namespaces share both fairly ([`queue`]): a tenant whose pods have slow chains waits for himself.

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

/// How many are in their turn. A plugin that is well takes a part of a second.
pub(super) const AT_ONCE: usize = 16;
/// How many run, with those that are late. One namespace alone has at most half of them, and that is more than a node has
/// pods, as kubelet is configured by default.
pub(super) const IN_ALL: usize = 256;
/// How long a run counts among [`AT_ONCE`]. Well above what a plugin takes in a burst, so that a burst stays bounded: every
/// 3 s at most 16 more begin.
pub(super) const TURN: Duration = Duration::from_secs(3);
/// How long it counts at least, also while a namespace waits that has fewer turns. Above what a plugin takes that is well, so
/// that a burst of many namespaces is a burst of 16 too.
pub(super) const SURE: Duration = Duration::from_secs(1);
/// After this much waiting a line says what is waited for, and again after each [`SAY_AGAIN`].
const SAY: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Turns of ADDs, and of DELs: those that hang must not keep other pods from starting.
pub(super) struct Both {
    pub(super) adds: Turns,
    pub(super) dels: Turns,
    pub(super) many_ports: ManyPorts,
}

impl Both {
    /// Nobody runs, nobody waits.
    pub(super) fn new() -> Self {
        Self { adds: Turns::new(Verb::Add), dels: Turns::new(Verb::Del), many_ports: ManyPorts::default() }
    }
}

/// The runs of one verb.
pub(super) struct Turns {
    verb: Verb,
    queue: Mutex<Queue>,
    /// Told whenever somebody is left waiting: a run of a namespace that has more may give way.
    waited_for: Notify,
}

impl Turns {
    pub(super) fn new(verb: Verb) -> Self {
        Self { verb, queue: Mutex::default(), waited_for: Notify::new() }
    }

    /// Waits for a turn of the pod's namespace and does the work in it, to its end.
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
        // From here on: a caller that goes away leaves the queue, or gives back what it was given.
        let place = Place { turns: self, namespace, number, in_turn: true };
        self.let_begin(self.lock());
        self.telling(id, begins).await;
        place
    }

    /// Waits, and says so when it takes long.
    async fn telling(&self, id: &SandboxId, mut begins: oneshot::Receiver<()>) {
        let mut next = SAY;
        loop {
            tokio::select! {
                biased;
                // Fails only when the place is gone, whose caller is this one.
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

/// A caller's place: in the queue, or among those that run.
struct Place<'a> {
    turns: &'a Turns,
    namespace: &'a str,
    number: u64,
    /// Or waits for one.
    in_turn: bool,
}

impl Place<'_> {
    /// Resolves when the turn is somebody else's.
    async fn turn_is_over(&mut self) {
        let end = Instant::now() + TURN;
        sleep(SURE).await;
        loop {
            // Asked for before the look: whoever begins to wait after it is heard.
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

    /// Gives the turn to a namespace that has fewer, if one waits. In one step, or all would give way to one.
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
