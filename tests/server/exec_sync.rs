//! ExecSync: output and exit code, or a timeout with nobody left behind.

use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::containerd::Fault;
use crate::support::server::Node;

async fn exec(node: &Node, id: &str, cmd: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    node.cri().exec_sync(request).await.map(tonic::Response::into_inner)
}

/// The container, and no trace of any exec.
fn assert_no_exec(node: &Node, before: &[String]) {
    assert_eq!(node.leftovers(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_are_the_command_s() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake"]).await;
    let before = node.leftovers();
    let reply = exec(&node, &id, &["fake", "out=to stdout", "err=to stderr", "exit=9"], 10).await.unwrap();
    assert_eq!(
        (reply.stdout.as_slice(), reply.stderr.as_slice(), reply.exit_code),
        (&b"to stdout"[..], &b"to stderr"[..], 9)
    );
    assert_no_exec(&node, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed_and_deleted() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake"]).await;
    let before = node.leftovers();
    let start = Instant::now();
    let error = exec(&node, &id, &["fake", "out=half"], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(5));
    assert_no_exec(&node, &before);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_timeout_is_no_timeout() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake"]).await;
    let reply = exec(&node, &id, &["fake", "exit=0", "after=1200"], 0).await.unwrap();
    assert_eq!(reply.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_no_process() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake"]).await;
    let before = node.leftovers();
    for method in ["Tasks/Exec", "Tasks/Start", "Tasks/Wait"] {
        for fault in [Fault::Error(Code::Unknown), Fault::Disconnect] {
            let case = format!("{method}: {fault:?}");
            node.containerd.fault(method, 1, fault);
            let error = exec(&node, &id, &["fake"], 2).await.expect_err(&case);
            assert!(
                matches!(error.code(), Code::Internal | Code::Unavailable | Code::DeadlineExceeded),
                "{case}: {error}"
            );
            node.containerd.heal();
            assert_eq!(node.leftovers(), before, "{case}\n{}", node.last_words());
            // The container's own exit is still waited for.
            assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "{case}");
        }
    }
    assert_eq!(exec(&node, &id, &["fake", "exit=0"], 10).await.unwrap().exit_code, 0);
    node.containerd.end(&id, 4);
    assert_eq!(node.ended(&id).await.exit_code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_client_leaves_is_deleted_at_its_end() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake"]).await;
    let before = node.leftovers();
    let gate = node.containerd.hang("Tasks/Start", 1);
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned()], timeout: 1 };
    let mut cri = node.cri();
    node.call_and_leave(async move { cri.exec_sync(request).await }, gate.arrived()).await;
    gate.open();
    crate::support::until("nothing is left of the command", || node.leftovers() == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_running_container_runs_commands() {
    let node = Node::start().await;
    let (_, id) = node.running("web", &["fake", "exit=0"]).await;
    node.ended(&id).await;
    let error = exec(&node, &id, &["fake"], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(exec(&node, &"0".repeat(64), &["fake"], 1).await.unwrap_err().code(), Code::NotFound);
}
