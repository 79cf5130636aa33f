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
            if fails { Err(index) } else { Ok(()) }
        });
    }
    undo
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

proptest! {
    /// The model: all indices from the last to the first, and one line for each that fails.
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
fn an_undo_that_hangs_is_reported_and_does_not_stop_the_others() {
    let log = Log::default();
    let mut undo = list(&[false], &log);
    undo.push("hang", std::future::pending::<Result<(), String>>());
    let left = run(undo.roll_back()).unwrap_err();
    assert_eq!(left.0, ["hang: not done within 60s"]);
    assert_eq!(*log.lock().unwrap(), [0]);
}
