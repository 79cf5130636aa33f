//! ExecSync: output and exit code, or a timeout that leaves no process behind.

use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::containerd::Fault;
use crate::support::server::Node;
use crate::support::until;

async fn exec(node: &Node, id: &str, cmd: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    node.cri().exec_sync(request).await.map(tonic::Response::into_inner)
}

/// Only the container is left, with no trace of an exec.
fn assert_no_exec(node: &Node, before: &[String]) {
    assert_eq!(node.leftovers(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_are_the_command_s() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
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
    let (_, id) = node.run_with_container("web", &["fake"]).await;
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
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let reply = exec(&node, &id, &["fake", "exit=0", "after=1200"], 0).await.unwrap();
    assert_eq!(reply.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_no_process() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
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
            assert_eq!(node.leftovers(), before, "{case}\n{}", node.log_tail());
            // The server still waits for the container's own exit.
            assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "{case}");
        }
    }
    assert_eq!(exec(&node, &id, &["fake", "exit=0"], 10).await.unwrap().exit_code, 0);
    node.containerd.end(&id, 4);
    assert_eq!(node.ended(&id).await.exit_code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_client_leaves_while_it_starts_is_deleted() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let gate = node.containerd.hang("Tasks/Start", 1);
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned()], timeout: 0 };
    let mut cri = node.cri();
    node.call_and_leave(async move { cri.exec_sync(request).await }, gate.arrived()).await;
    gate.open();
    until("nothing is left of the command", || node.leftovers() == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_running_container_runs_commands() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "exit=0"]).await;
    node.ended(&id).await;
    let error = exec(&node, &id, &["fake"], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(exec(&node, &"0".repeat(64), &["fake"], 1).await.unwrap_err().code(), Code::NotFound);
}

/// As with containerd's CRI. Otherwise a command without a timeout would run on.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_client_leaves_is_killed() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned()], timeout: 0 };
    let mut cri = node.cri();
    let runs = || node.leftovers().iter().any(|left| left.starts_with("containerd has exec"));
    let started = until("it runs", runs);
    node.call_and_leave(async move { cri.exec_sync(request).await }, started).await;
    until("nothing is left of the command", || node.leftovers() == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_their_turn_within_their_timeout() {
    let node = Node::start_with("[limits]\nexecs = 2\nexecs_per_container = 1\n").await;
    let (_, one) = node.run_with_container("one", &["fake"]).await;
    let (_, other) = node.run_with_container("other", &["fake"]).await;
    // The first command keeps its slot until the gate opens. A command that ends by itself could end before a busy
    // machine has sent the others, or begin after them.
    let gate = node.containerd.hang("Tasks/Start", 1);
    let slow = exec(&node, &one, &["fake", "exit=1"], 20);
    let (next, late) = (exec(&node, &one, &["fake", "exit=2"], 20), exec(&node, &one, &["fake", "exit=3"], 1));
    let free = exec(&node, &other, &["fake", "exit=4"], 10);
    let others = async {
        gate.arrived().await;
        let of_turn = async {
            let ended = tokio::join!(late, free);
            gate.open();
            ended
        };
        tokio::join!(next, of_turn)
    };
    let (slow, (next, (late, free))) = tokio::join!(slow, others);
    let free = free.expect("another container's command waited").exit_code;
    assert_eq!((slow.unwrap().exit_code, next.unwrap().exit_code, free), (1, 2, 4));
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    let started = node.containerd.calls().iter().filter(|call| call.method == "Tasks/Exec").count();
    assert_eq!(started, 3, "who waited too long was never started");
}

/// A small version of CVE-2022-31030 and CVE-2022-1708: many large outputs at once arrive complete, in bounded memory.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_outputs_share_a_budget() {
    let (budget, size, count) = (24, 12 << 20, 20);
    let node = Node::start_with(&format!("[limits]\nexec_reply_budget = {budget}\n")).await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let base = node.memory();
    let flood = format!("flood={size}");
    let command = ["fake", &flood, "exit=0"];
    let all = futures_util::future::join_all((0..count).map(|_| async {
        let reply = exec(&node, &id, &command, 0).await.unwrap();
        (reply.stdout.len(), reply.exit_code)
    }));
    let mut peak = 0;
    let watch = async {
        loop {
            peak = peak.max(node.memory());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let replies = tokio::select! {
        replies = all => replies,
        () = watch => unreachable!(),
    };
    assert_eq!(replies, vec![(size, 0); count]);
    assert!(peak <= base + budget + 32, "{peak} MiB at most, {base} before");
    until("nothing is left of the commands", || node.leftovers() == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_reply_holds_is_discarded() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let flood = format!("flood={}", 64 << 20);
    let reply = exec(&node, &id, &["fake", &flood, "exit=4"], 0).await.unwrap();
    assert_eq!((reply.stdout.len(), reply.exit_code), ((16 << 20) - (64 << 10), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_holds_the_output_holds_the_answer_for_ten_seconds() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let start = Instant::now();
    let reply = exec(&node, &id, &["fake", "out=before", "exit=0", "leaves=child"], 1).await.unwrap();
    assert_eq!((reply.stdout.as_slice(), reply.exit_code), (&b"before"[..], 0));
    assert!(start.elapsed() >= Duration::from_secs(10) && start.elapsed() < Duration::from_secs(12));
    assert_no_exec(&node, &before);
}
