use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::*;

type Hanging = Vec<BoxFuture<'static, ()>>;

/// Begins `count` runs that never end. Each that can get a slot has it when this returns.
fn hang(turns: &Arc<Turns>, namespace: &'static str, count: usize) -> Hanging {
    let one = || {
        let turns = Arc::clone(turns);
        // All are polled in one tokio task, whose cooperative budget would otherwise stop the later ones.
        let run = async move { turns.run(&SandboxId::random(), namespace, pending::<()>()).await };
        tokio::task::unconstrained(run).boxed()
    };
    let mut all: Vec<_> = std::iter::repeat_with(one).take(count).collect();
    for run in &mut all {
        assert!(run.now_or_never().is_none());
    }
    all
}

/// How long a run waits while `hanging` runs are active.
async fn wait(turns: &Turns, namespace: &str, hanging: &mut Hanging) -> Duration {
    let (start, one) = (Instant::now(), SandboxId::random());
    tokio::select! {
        () = turns.run(&one, namespace, ready(())) => start.elapsed(),
        _ = join_all(hanging) => panic!("they end"),
    }
}

async fn for_an_hour(hanging: &mut Hanging) {
    assert!(timeout(Duration::from_secs(3600), join_all(hanging)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn f14_a_run_that_hangs_keeps_its_slot_for_a_few_seconds_only() {
    let turns = Arc::new(Turns::new(Operation::Add));
    let mut hanging = hang(&turns, "a", AT_ONCE);
    assert_eq!(wait(&turns, "a", &mut hanging).await, TURN);
    drop(hanging);
    assert_eq!(turns.lock().running(), 0, "also who went away");
}

#[tokio::test(start_paused = true)]
async fn f14_a_burst_begins_a_part_at_a_time() {
    let turns = Arc::new(Turns::new(Operation::Add));
    let mut hanging = hang(&turns, "a", 3 * AT_ONCE);
    assert_eq!(turns.lock().running(), AT_ONCE, "one namespace alone has all turns");
    assert_eq!(wait(&turns, "a", &mut hanging).await, 3 * TURN);
}

#[tokio::test(start_paused = true)]
async fn t7_a_pod_of_another_namespace_waits_for_a_second_at_most() {
    let turns = Arc::new(Turns::new(Operation::Add));
    let mut hanging = hang(&turns, "a", 3 * AT_ONCE);
    assert_eq!(wait(&turns, "b", &mut hanging).await, MIN_TURN);
    // The bound also holds at any moment while later runs begin.
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(310), join_all(&mut hanging)).await.is_err());
        let waited = wait(&turns, "b", &mut hanging).await;
        assert!(waited <= MIN_TURN, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn t7_nor_behind_two_namespaces_or_five() {
    for names in [&["a", "b"][..], &["a", "b", "c", "d", "e"]] {
        let turns = Arc::new(Turns::new(Operation::Del));
        let mut hanging: Hanging = names.iter().flat_map(|name| hang(&turns, name, 2 * AT_ONCE)).collect();
        assert!(timeout(MIN_TURN + Duration::from_millis(500), join_all(&mut hanging)).await.is_err());
        let waited = wait(&turns, "victim", &mut hanging).await;
        assert!(waited <= MIN_TURN, "{waited:?}");
    }
}

/// A run that ends within [`MIN_TURN`] keeps its slot, so many namespaces cause no larger burst than one.
#[tokio::test(start_paused = true)]
async fn t7_a_burst_of_well_plugins_is_bounded_also_of_many_namespaces() {
    let turns = Turns::new(Operation::Add);
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let names: Vec<String> = (0..110).map(|number| format!("{}", number % 7)).collect();
    let run = |name| {
        let (turns, now, most) = (&turns, &now, &most);
        async move {
            let work = async {
                most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                sleep(MIN_TURN * 9 / 10).await;
                now.fetch_sub(1, Relaxed);
            };
            turns.run(&SandboxId::random(), name, work).await;
        }
    };
    let start = Instant::now();
    join_all(names.iter().map(|name| run(name.as_str()))).await;
    assert_eq!(most.into_inner(), AT_ONCE);
    assert!(start.elapsed() <= MIN_TURN * 9 / 10 * 7, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f14_t7_no_more_run_in_all_than_may_and_another_namespace_has_room() {
    let turns = Arc::new(Turns::new(Operation::Add));
    let mut hanging = hang(&turns, "a", IN_ALL);
    for_an_hour(&mut hanging).await;
    assert_eq!(turns.lock().running(), IN_ALL / 2);
    assert!(timeout(Duration::from_secs(3600), wait(&turns, "a", &mut hanging)).await.is_err());
    assert_eq!(wait(&turns, "b", &mut hanging).await, Duration::ZERO);
    hanging.extend(hang(&turns, "b", IN_ALL));
    for_an_hour(&mut hanging).await;
    assert!(turns.lock().running() < IN_ALL);
    assert_eq!(wait(&turns, "c", &mut hanging).await, Duration::ZERO);
}

/// A caller may go away before or after it is notified that its run has begun.
#[tokio::test(start_paused = true)]
async fn t7_a_caller_that_leaves_while_it_waits_leaves_nothing() {
    let turns = Arc::new(Turns::new(Operation::Add));
    let mut first = hang(&turns, "a", AT_ONCE);
    let waiting = hang(&turns, "b", 1);
    drop(waiting);
    let waiting = hang(&turns, "b", 1);
    // The waiting run gets the slot, but is dropped before it is polled again.
    drop(first.pop());
    drop(waiting);
    assert_eq!(turns.lock().running(), AT_ONCE - 1);
    let start = Instant::now();
    turns.run(&SandboxId::random(), "c", ready(())).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(first);
    let queue = turns.lock();
    assert!(queue.running() == 0 && !queue.has_waiters());
}

#[tokio::test(start_paused = true)]
async fn one_whose_turn_is_over_goes_on_to_its_end() {
    let turns = Turns::new(Operation::Del);
    let work = async {
        sleep(10 * TURN).await;
        7
    };
    assert_eq!(turns.run(&SandboxId::random(), "a", work).await, 7);
    assert_eq!(turns.lock().running(), 0);
}
