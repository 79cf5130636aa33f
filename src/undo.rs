//! The rollback list of a mutating operation: each step pushes its undo before it starts.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

type Work = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

struct Step {
    name: &'static str,
    work: Work,
    /// Whether to skip this undo if another one has failed.
    is_record: bool,
}

/// The undos of the steps so far. Dropping it undoes nothing: an operation must end with [`Undo::commit`] or
/// [`Undo::roll_back`].
#[must_use]
#[derive(Default)]
pub struct Undo {
    steps: Vec<Step>,
    current: watch::Sender<&'static str>,
}

/// The undos that failed, in the order in which they ran.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct RollbackFailed(pub Vec<String>);

impl Undo {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the undo of the step that starts next. `undo` must succeed even if the step never happened, because it also
    /// runs if the step failed halfway. Its error is a text with all causes: the text alone of most errors lacks them.
    pub fn push<F>(&mut self, name: &'static str, undo: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, false, undo);
    }

    /// Like `push`, for the record of the object that is being created. The record is written first and deleted last,
    /// and it is kept if anything else is left, so that the next daemon finds what is left.
    pub fn push_record<F>(&mut self, name: &'static str, undo: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, true, undo);
    }

    fn add<F>(&mut self, name: &'static str, is_record: bool, undo: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.steps.push(Step { name, work: Box::pin(undo), is_record });
    }

    /// The operation succeeded: discards all undos.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// The name of the undo that is running, once [`Undo::roll_back`] has begun.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<&'static str> {
        self.current.subscribe()
    }

    /// Runs all undos, the last one first. A failed undo does not keep the others from running. There is no time limit,
    /// because dropping a call to containerd would cancel it halfway. A caller that cannot wait that long must not drop
    /// this future, but wait for something else.
    ///
    /// # Errors
    /// [`RollbackFailed`] with every undo that failed.
    pub async fn roll_back(mut self) -> Result<(), RollbackFailed> {
        let mut failed = Vec::new();
        while let Some(Step { name, work, is_record }) = self.steps.pop() {
            if is_record && !failed.is_empty() {
                continue;
            }
            self.current.send_replace(name);
            if let Err(error) = work.await {
                failed.push(format!("{name}: {error}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(RollbackFailed(failed)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    type Log = Arc<Mutex<Vec<usize>>>;

    fn list(outcomes: &[bool], log: &Log) -> Undo {
        let mut undo = Undo::new();
        for (index, fails) in outcomes.iter().copied().enumerate() {
            let log = Arc::clone(log);
            undo.push("step", async move {
                log.lock().unwrap().push(index);
                if fails { Err(index.to_string()) } else { Ok(()) }
            });
        }
        undo
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
    }

    proptest! {
        /// The expected result: all indices from the last to the first, and one entry in [`RollbackFailed`] for each undo that
        /// fails.
        #[test]
        fn every_undo_runs_in_reverse_whatever_fails(outcomes in prop::collection::vec(any::<bool>(), 0..12)) {
            let log = Log::default();
            let left = run(list(&outcomes, &log).roll_back()).err().map_or(0, |l| l.0.len());
            let order: Vec<usize> = (0..outcomes.len()).rev().collect();
            prop_assert_eq!(&*log.lock().unwrap(), &order);
            prop_assert_eq!(left, outcomes.iter().filter(|fails| **fails).count());
        }
    }

    #[test]
    fn a_committed_operation_undoes_nothing() {
        let log = Log::default();
        list(&[false, false], &log).commit();
        assert!(log.lock().unwrap().is_empty());
    }

    #[test]
    fn f7_an_undo_takes_as_long_as_it_takes_and_the_others_wait() {
        let log = Log::default();
        let mut undo = list(&[false], &log);
        let at = Arc::clone(&log);
        undo.push("slow", async move {
            tokio::time::sleep(std::time::Duration::from_secs(600)).await;
            at.lock().unwrap().push(1);
            Ok::<_, String>(())
        });
        let current = undo.current();
        assert!(run(undo.roll_back()).is_ok());
        assert_eq!(*log.lock().unwrap(), [1, 0]);
        assert_eq!(*current.borrow(), "step");
    }

    #[test]
    fn a_record_goes_last_and_stays_with_what_is_left() {
        for fails in [false, true] {
            let log = Log::default();
            let mut undo = Undo::new();
            let at = Arc::clone(&log);
            undo.push_record("record", async move {
                at.lock().unwrap().push(0);
                Ok::<_, String>(())
            });
            let at = Arc::clone(&log);
            undo.push("task", async move {
                at.lock().unwrap().push(1);
                if fails { Err("no".to_owned()) } else { Ok(()) }
            });
            assert_eq!(run(undo.roll_back()).is_err(), fails);
            assert_eq!(*log.lock().unwrap(), if fails { vec![1] } else { vec![1, 0] });
        }
    }
}
