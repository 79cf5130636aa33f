//! How the exit of a container is determined when its task is gone or its log does not end.

use std::time::{Duration, Instant};

use crate::support::server::Node;
use crate::support::until;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_gone_has_ended_with_255_and_the_reason_unknown() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let start = Instant::now();
    node.containerd.drop_task(&id);
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert!(start.elapsed() >= SECOND, "its event was not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_a_task_that_is_gone_comes_with_its_event() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    node.containerd.drop_task(&id);
    // containerd sends such an event after it has cleaned up after a dead shim.
    tokio::time::sleep(SECOND / 4).await;
    node.containerd.publish_exit(&id, 137);
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_end_does_not_come_is_waited_for_no_longer_than_a_second() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "out=hello\n", "leaves=child"]).await;
    let missed = || async { node.metrics().await.contains("pontoon_log_incomplete_exits_total 1") };
    assert!(!missed().await);
    let start = Instant::now();
    node.containerd.end(&id, 3);
    let status = node.ended(&id).await;
    assert!(start.elapsed() >= SECOND && start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    assert_eq!(status.exit_code, 3);
    assert!(std::fs::read_to_string(&status.log_path).unwrap().contains(" stdout F hello\n"));
    assert!(missed().await, "it is not counted");
    until("the task is deleted", || !node.containerd.tasks().contains(&id)).await;
}
