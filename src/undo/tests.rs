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
