//! How many runs of a verb there are at a time.
//!
//! ```text
//! waiting --a turn is free--> in its turn --ended within TURN--> done
//!                                         --TURN is over-------> late (others begin) --> done
//! ```
//!
//! A burst of pods takes turns: more plugins at once only queue on the kernel's rtnl lock and take the CPUs from each
//! other. A plugin that hangs (Multus, when a delegate does not answer) does neither, so it must not keep other pods
//! waiting: when its turn is over the next one begins, and it goes on to its own deadline. All that run, the late ones
//! too, are bounded as well: each is a process.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::exec::Verb;
use crate::ids::SandboxId;
use crate::telemetry::{Stage, during};

/// How many are in their turn. A plugin that is well takes a part of a second.
pub(super) const AT_ONCE: usize = 16;
/// How many run, with those that are late: more than a node has pods, as kubelet is configured by default.
pub(super) const IN_ALL: usize = 256;
/// How long a run counts among [`AT_ONCE`]. Well above what a plugin takes in a burst, so that a burst stays bounded: every
/// 3 s at most 16 more begin.
pub(super) const TURN: Duration = Duration::from_secs(3);
/// After this much waiting a line says what is waited for, and again after each [`SAY_AGAIN`].
const SAY: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The runs of one verb.
pub(super) struct Turns {
    verb: Verb,
    in_turn: Semaphore,
    in_all: Semaphore,
    /// In the order in which they began.
    running: Mutex<Vec<Run>>,
}

#[derive(Clone)]
struct Run {
    id: SandboxId,
    since: Instant,
}

impl Turns {
    pub(super) fn new(verb: Verb) -> Self {
        Self { verb, in_turn: Semaphore::new(AT_ONCE), in_all: Semaphore::new(IN_ALL), running: Mutex::default() }
    }

    /// Waits for a turn and does the work in it, to its end.
    pub(super) async fn run<T>(&self, id: &SandboxId, work: impl Future<Output = T>) -> T {
        // Both are taken in this order: who waits for a place among all keeps nobody's turn.
        let turn = async { (self.in_all.acquire().await, self.in_turn.acquire().await) };
        let (_place, turn) = during(Stage::Queue, self.telling(id, turn)).await;
        let _running = Running::new(self, id);
        let work = during(Stage::Cni, work);
        tokio::pin!(work);
        if let Ok(done) = timeout(TURN, &mut work).await {
            return done;
        }
        drop(turn);
        let (verb, sandbox) = (self.verb, id);
        tracing::warn!(%sandbox, %verb, "cni: it has not ended within {TURN:?} and goes on; others need not wait for it");
        work.await
    }

    /// Waits, and says so when it takes long.
    async fn telling<T>(&self, id: &SandboxId, turn: impl Future<Output = T>) -> T {
        tokio::pin!(turn);
        let mut next = SAY;
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return turn,
                () = sleep(next) => self.tell(id),
            }
            next = SAY_AGAIN;
        }
    }

    fn tell(&self, sandbox: &SandboxId) {
        let (running, verb) = (self.lock().clone(), self.verb);
        let oldest = running.first().map(|run| format!("{} for {:?}", run.id, run.since.elapsed()));
        let oldest = oldest.unwrap_or_default();
        tracing::warn!(%sandbox, %verb, running = running.len(), oldest, "cni: it waits for its turn, behind those that run");
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run's place in the list; also a caller that goes away gives it up.
struct Running<'a> {
    turns: &'a Turns,
    id: &'a SandboxId,
}

impl<'a> Running<'a> {
    fn new(turns: &'a Turns, id: &'a SandboxId) -> Self {
        turns.lock().push(Run { id: id.clone(), since: Instant::now() });
        Self { turns, id }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.turns.lock();
        if let Some(at) = running.iter().position(|run| run.id == *self.id) {
            running.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    /// Begins so many runs that never end; each has what it needs when this returns.
    fn hang(turns: &Arc<Turns>, count: usize) -> Vec<futures_util::future::BoxFuture<'static, ()>> {
        let one = || {
            let turns = Arc::clone(turns);
            // All are polled in one turn of tokio's, which would make those above its budget wait.
            tokio::task::unconstrained(async move { turns.run(&SandboxId::random(), pending::<()>()).await }).boxed()
        };
        let mut all: Vec<_> = std::iter::repeat_with(one).take(count).collect();
        for run in &mut all {
            assert!(run.now_or_never().is_none());
        }
        all
    }

    /// How long one waits beside those that hang.
    async fn wait(turns: &Turns, hanging: Vec<futures_util::future::BoxFuture<'static, ()>>) -> Duration {
        let (start, one) = (Instant::now(), SandboxId::random());
        tokio::select! {
            () = turns.run(&one, ready(())) => start.elapsed(),
            _ = futures_util::future::join_all(hanging) => panic!("they end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f14_who_hangs_counts_for_a_few_seconds_only() {
        let turns = Arc::new(Turns::new(Verb::Add));
        let hanging = hang(&turns, AT_ONCE);
        assert_eq!(wait(&turns, hanging).await, TURN);
        assert!(turns.lock().is_empty(), "also who went away");
    }

    #[tokio::test(start_paused = true)]
    async fn f14_a_burst_begins_a_part_at_a_time() {
        let turns = Arc::new(Turns::new(Verb::Add));
        let hanging = hang(&turns, 3 * AT_ONCE);
        assert_eq!(turns.lock().len(), AT_ONCE);
        assert_eq!(wait(&turns, hanging).await, 3 * TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn f14_no_more_run_in_all_than_may() {
        let turns = Arc::new(Turns::new(Verb::Add));
        let hanging = hang(&turns, IN_ALL);
        let waited = timeout(Duration::from_secs(3600), wait(&turns, hanging)).await;
        assert!(waited.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_turn_is_over_goes_on_to_its_end() {
        let turns = Turns::new(Verb::Del);
        let work = async {
            sleep(10 * TURN).await;
            7
        };
        assert_eq!(turns.run(&SandboxId::random(), work).await, 7);
        assert_eq!(turns.in_turn.available_permits(), AT_ONCE);
        assert_eq!(turns.in_all.available_permits(), IN_ALL);
    }
}
