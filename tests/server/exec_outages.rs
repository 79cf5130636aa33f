//! F12: a command is killed and deleted however long that takes, and its directory stays until then.

use std::sync::Arc;
use std::time::Duration;

use pontoon::api::v1::*;
use tokio::time::Instant;
use tonic::Code;

use crate::support::containerd::{Done, Fault};
use crate::support::server::Node;

/// How long the deletion of a command fails.
const FAILS_FOR: Duration = Duration::from_secs(40);
/// How long the deletion may take after that: the longest pause between two attempts, plus a margin.
const LONGEST_PAUSE: Duration = Duration::from_secs(40);

/// The leftovers of commands: execs in containerd, and directories.
fn left(node: &Node) -> (usize, usize) {
    let all = node.leftovers();
    let of = |part: &str| all.iter().filter(|left| left.contains(part)).count();
    (of("containerd has exec"), of("/state/exec/"))
}

/// A node with a container in which a command has timed out and cannot be deleted. The deletion fails from the start: on
/// a busy machine the command could otherwise be deleted before the test comes to it.
async fn overdue() -> (Node, String) {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    no_deletion(&node);
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned()], timeout: 1 };
    node.cri().exec_sync(request).await.unwrap_err();
    assert_eq!((left(&node), node.containerd.running().len()), ((1, 1), 3), "the command is left");
    (node, sandbox)
}

fn no_deletion(node: &Node) {
    for method in ["Tasks/DeleteProcess", "Tasks/Kill"] {
        node.containerd.fault(method, 0, Fault::Error(Code::Unknown));
    }
}

/// The directory must stay as long as the process, because the next daemon finds the process by it.
async fn stays_for(node: &Node, duration: Duration, case: &str) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        assert_eq!(left(node), (1, 1), "{case}: a command (first) without its directory (second)");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn goes_within(node: &Node, duration: Duration, case: &str) {
    let end = Instant::now() + duration;
    while left(node) != (0, 0) {
        assert!(Instant::now() < end, "{case}: the command outlives its client: {:?}\n{}", left(node), node.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!node.containerd.running().iter().any(|process| process.contains('/')), "{case}");
}

async fn errors() {
    let case = "Kill and DeleteProcess fail for 40 s";
    let (node, sandbox) = overdue().await;
    stays_for(&node, FAILS_FOR, case).await;
    node.containerd.heal();
    goes_within(&node, LONGEST_PAUSE, case).await;
    node.remove(&sandbox).await;
    node.assert_clean(case).await;
}

async fn containerd_away() {
    let case = "containerd is away for 40 s";
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let kill = node.containerd.outage("Tasks/Kill", 1, Done::No, FAILS_FOR);
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned()], timeout: 1 };
    let node = Arc::new(node);
    let caller = Arc::clone(&node);
    let call = tokio::spawn(async move { caller.cri().exec_sync(request).await });
    while !kill.has_begun() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stays_for(&node, FAILS_FOR - Duration::from_secs(1), case).await;
    kill.over().await;
    goes_within(&node, crate::support::PATIENCE, case).await;
    call.await.unwrap().unwrap_err();
    node.remove(&sandbox).await;
    node.assert_clean(case).await;
}

/// The daemon is killed in between, and the deletion fails for the next daemon at first too.
async fn restart() {
    let case = "the daemon is killed after 20 of 40 s";
    let (mut node, sandbox) = overdue().await;
    stays_for(&node, FAILS_FOR / 2, case).await;
    node.restart().await;
    stays_for(&node, FAILS_FOR / 2, case).await;
    node.containerd.heal();
    goes_within(&node, LONGEST_PAUSE, case).await;
    node.remove(&sandbox).await;
    node.assert_clean(case).await;
}

/// The cases run in parallel, since each takes 40 s.
#[tokio::test(flavor = "multi_thread")]
async fn f12_a_command_is_deleted_however_long_that_cannot_succeed() {
    let cases = [tokio::spawn(errors()), tokio::spawn(containerd_away()), tokio::spawn(restart())];
    let mut failed = 0;
    for case in cases {
        // The case itself has printed the reason.
        failed += usize::from(case.await.is_err());
    }
    assert_eq!(failed, 0, "of 3 cases");
}
