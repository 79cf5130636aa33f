use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::FutureExt;

use super::*;

#[derive(Default)]
struct Counts {
    made: AtomicU32,
    listed: AtomicU32,
    undone: AtomicU32,
    /// Seconds.
    undo_takes: AtomicU32,
}

impl ListTarget<u32> for Counts {
    fn list(&self, _: &Arc<u32>) {
        self.listed.fetch_add(1, Relaxed);
    }

    async fn roll_back(self: Arc<Self>, _: Arc<u32>, undo: Undo) {
        undo.roll_back().await.unwrap();
    }
}

struct Bench {
    creations: Creations<u32, String, u8>,
    counts: Arc<Counts>,
}

impl Bench {
    fn new() -> Self {
        Self { creations: Creations::new(Tasks::default()), counts: Arc::default() }
    }

    async fn run(&self, request: u8, seconds: u64, fails: bool) -> Outcome<u32, String> {
        let counts = Arc::clone(&self.counts);
        let work = || async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            if fails {
                return Err("no".to_owned());
            }
            let number = counts.made.fetch_add(1, Relaxed);
            let mut undo = Undo::new();
            undo.push("made", async move {
                tokio::time::sleep(Duration::from_secs(counts.undo_takes.load(Relaxed).into())).await;
                counts.undone.fetch_add(1, Relaxed);
                Ok::<_, String>(())
            });
            Ok(Creation { object: Arc::new(number), undo })
        };
        let key = Key { name: "name", request };
        self.creations.run(key, &self.counts, work).await
    }

    fn counts(&self) -> (u32, u32, u32) {
        let Counts { made, listed, undone, .. } = &*self.counts;
        (made.load(Relaxed), listed.load(Relaxed), undone.load(Relaxed))
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn identical_requests_join_and_are_listed_once() {
    let bench = Bench::new();
    let (a, b) = tokio::join!(bench.run(1, 1, false), bench.run(1, 1, false));
    assert!(matches!((a, b), (Outcome::Made(a), Outcome::Made(b)) if a == b));
    settle().await;
    assert_eq!(bench.counts(), (1, 1, 0));
    assert!(bench.creations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_a_client_left_gets_the_object() {
    let bench = Bench::new();
    let left = tokio::time::timeout(Duration::from_secs(1), bench.run(1, 5, false)).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.counts(), (1, 0, 0));
    assert!(matches!(bench.run(1, 5, false).await, Outcome::Made(_)));
    settle().await;
    assert_eq!(bench.counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_no_caller_received_is_rolled_back_after_four_minutes() {
    let bench = Bench::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), bench.run(1, 5, false)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.counts(), (1, 0, 1));
    assert!(bench.creations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_config_conflicts_once_and_then_succeeds() {
    let bench = Bench::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), bench.run(1, 5, false)).await;
    assert!(matches!(bench.run(2, 5, false).await, Outcome::Conflict));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.counts(), (1, 0, 1));
    assert!(matches!(bench.run(2, 5, false).await, Outcome::Made(_)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_all_and_frees_the_name() {
    let bench = Bench::new();
    let (a, b) = tokio::join!(bench.run(1, 1, true), bench.run(1, 1, true));
    assert!(matches!((a, b), (Outcome::Failed(_), Outcome::Failed(_))));
    assert!(matches!(bench.run(2, 1, false).await, Outcome::Made(_)));
}

#[tokio::test(start_paused = true)]
async fn f7_the_name_of_an_unclaimed_object_is_held_until_its_rollback_has_ended() {
    let bench = Bench::new();
    bench.counts.undo_takes.store(3600, Relaxed);
    let _ = tokio::time::timeout(Duration::from_secs(1), bench.run(1, 5, false)).await;
    assert!(matches!(bench.run(2, 5, false).await, Outcome::Conflict));
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert!(matches!(bench.run(2, 5, false).await, Outcome::Conflict), "its name is taken");
    assert_eq!(bench.counts(), (1, 0, 0));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.counts(), (1, 0, 1));
    assert!(matches!(bench.run(2, 5, false).await, Outcome::Made(_)));
}

#[tokio::test]
async fn a_panic_reaches_all_callers() {
    async fn bug() -> Result<Creation<u32>, String> {
        tokio::task::yield_now().await;
        panic!("in a test")
    }
    let bench = Bench::new();
    let key = || Key { name: "name", request: 1 };
    let call = || AssertUnwindSafe(bench.creations.run(key(), &bench.counts, bug)).catch_unwind();
    let (first, second) = tokio::join!(call(), call());
    assert!(first.is_err() && second.is_err());
    assert!(call().await.is_err(), "it does not hang either");
}
