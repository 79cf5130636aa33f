use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};

use super::*;

type Test = Flights<&'static str, u32>;
const MINUTE: Duration = Duration::from_secs(60);

fn flights() -> Test {
    Flights::new(Tasks::default())
}

#[tokio::test(start_paused = true)]
async fn a_second_caller_joins_and_a_third_starts_anew() {
    let (flights, count) = (flights(), Arc::new(AtomicU32::new(0)));
    let work = || {
        let count = Arc::clone(&count);
        async move {
            sleep(MINUTE).await;
            count.fetch_add(1, Relaxed)
        }
    };
    let all = async { tokio::join!(flights.run("a", work), flights.run("a", work), flights.run("b", work)) };
    let (first, second, other) = all.await;
    assert_eq!(first, second);
    assert_ne!(first, other);
    assert!(flights.is_empty());
    assert_eq!(flights.run("a", work).await, 2, "an operation that has ended is over");
}

#[tokio::test(start_paused = true)]
async fn the_work_outlives_its_callers() {
    let (flights, count) = (flights(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&count);
    let work = || async move {
        sleep(MINUTE).await;
        counted.fetch_add(1, Relaxed)
    };
    assert!(timeout(MINUTE / 2, flights.run("a", work)).await.is_err());
    flights.tasks.drained().await;
    assert_eq!(count.load(Relaxed), 1);
    assert!(flights.is_empty());
}

#[tokio::test]
async fn whoever_asks_is_known_once() {
    let flights = flights();
    let mut seen = None;
    let work = |flight: Flight<&'static str, u32>| {
        seen = Some(flight.owners());
        std::future::pending()
    };
    let _first = flights.join("one", "a", work);
    let mut owners = seen.unwrap();
    owners.mark_unchanged();
    let _again = flights.join("one", "a", |_| std::future::pending());
    assert!(!owners.has_changed().unwrap());
    let _other = flights.join("other", "a", |_| std::future::pending());
    assert!(owners.has_changed().unwrap());
    assert_eq!(*owners.borrow(), ["one", "other"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_abandoned_a_minute_after_the_last_left() {
    let (flights, start) = (flights(), Instant::now());
    let (first, ended) = flights.join("", "a", |flight| async move {
        flight.abandoned(MINUTE).await;
        7
    });
    sleep(MINUTE).await;
    drop(first);
    sleep(MINUTE / 2).await;
    let (back, _) = flights.join("", "a", |_| async { 8 });
    sleep(MINUTE * 2).await;
    drop(back);
    assert_eq!(ended.await, 7);
    assert_eq!(start.elapsed(), MINUTE + MINUTE / 2 + MINUTE * 2 + MINUTE);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_operation_is_not_joined() {
    let flights = flights();
    let cancelled = |flight: Flight<&'static str, u32>| async move {
        flight.abandoned(MINUTE).await;
        // The cancellation takes a while.
        sleep(MINUTE).await;
        7
    };
    assert!(timeout(MINUTE, flights.run_as("", "a", cancelled)).await.is_err());
    sleep(MINUTE * 3 / 2).await;
    let next = flights.run("a", || async {
        sleep(MINUTE).await;
        8
    });
    let (next, ()) = tokio::join!(next, async {
        sleep(MINUTE * 3 / 4).await;
        assert_eq!(flights.len(), 1, "the end of the old one does not remove the new one");
    });
    assert_eq!(next, 8);
}

#[tokio::test]
async fn a_panic_reaches_all_callers() {
    async fn bug() -> u32 {
        tokio::task::yield_now().await;
        panic!("in a test")
    }
    let flights = flights();
    let call = || AssertUnwindSafe(flights.run("a", bug)).catch_unwind();
    let (first, second) = tokio::join!(call(), call());
    assert!(first.is_err() && second.is_err());
    assert!(call().await.is_err(), "it does not hang either");
}
