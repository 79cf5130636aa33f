//! A containerd task has one owner, which gives up on no error and reports only what it has observed. The tests cover
//! how an exit is recorded (F3), how often a pause task is deleted (F11), tasks found at the start, and calls that fail
//! for long.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use pontoon::api::v1::*;
use tokio::time::Instant;
use tonic::Code;

use crate::support::containerd::{Call, Done, Fault, Gate};
use crate::support::server::Node;
use crate::support::{PATIENCE, requests, until};

/// The codes with which a call can fail while its task exists. NotFound from Tasks is not among them: it means that the
/// task has ended.
const CODES: [Code; 15] = [
    Code::Unknown,
    Code::Internal,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::InvalidArgument,
    Code::PermissionDenied,
    Code::Unauthenticated,
    Code::DeadlineExceeded,
    Code::Cancelled,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::DataLoss,
    Code::AlreadyExists,
    Code::Unavailable,
];
/// More than the longest pause between two tries of an owner (`LONGEST` in src/task/pace.rs), for a busy machine.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

fn count(node: &Node, method: &str, object: &str) -> usize {
    let of_it = |call: &Call| call.method == method && call.object == object;
    node.containerd.calls().into_iter().filter(of_it).count()
}

fn has_exit(node: &Node, id: &str) -> bool {
    let record = node.containerd.container(id);
    record.is_some_and(|record| record.extensions.keys().any(|key| key.ends_with("exit")))
}

/// A container whose process has exited with 8, where the exit cannot be written to the record.
async fn unwritten(node: &Node, name: &str, code: Code) -> (String, String) {
    let (sandbox, id) = node.run_with_container(name, &["fake"]).await;
    node.containerd.fault("Containers/Update", 0, Fault::Error(code));
    node.containerd.end(&id, 8);
    until("the write is repeated", || count(node, "Containers/Update", &id) >= 2).await;
    (sandbox, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_an_exit_is_written_whatever_the_write_fails_with() {
    let node = Node::start().await;
    for code in CODES.into_iter().chain([Code::NotFound]) {
        let (sandbox, id) = unwritten(&node, &format!("web-{code:?}").to_lowercase(), code).await;
        assert!(node.containerd.tasks().contains(&id), "{code:?}: its task is what still knows the code");
        let state = node.status(&id).await.state();
        assert_eq!(state, ContainerState::ContainerRunning, "{code:?}: it is told before it is written");
        node.containerd.heal();
        let status = node.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (8, "Error"), "{code:?}");
        assert!(has_exit(&node, &id), "{code:?}");
        until("the task is deleted", || !node.containerd.tasks().contains(&id)).await;
        node.remove(&sandbox).await;
    }
    node.assert_clean("remove").await;
}

/// The daemon is killed before it could write the exit, and the next one cannot write it at first either.
#[tokio::test(flavor = "multi_thread")]
async fn f3_an_exit_that_was_not_written_is_the_process_s_own_after_a_kill() {
    let mut node = Node::start().await;
    for code in [Code::Unknown, Code::ResourceExhausted, Code::NotFound] {
        let (sandbox, id) = unwritten(&node, &format!("web-{code:?}").to_lowercase(), code).await;
        node.restart().await;
        let written = count(&node, "Containers/Update", &id);
        until("the new one tries too", || count(&node, "Containers/Update", &id) > written).await;
        assert!(node.containerd.tasks().contains(&id), "{code:?}");
        node.containerd.heal();
        let status = node.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (8, "Error"), "{code:?}");
        node.remove(&sandbox).await;
    }
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_a_container_whose_exit_cannot_be_written_can_be_removed() {
    let node = Node::start().await;
    let (sandbox, id) = unwritten(&node, "one", Code::Internal).await;
    let remove = RemoveContainerRequest { container_id: id.clone() };
    node.cri().remove_container(remove).await.unwrap();
    assert_eq!((node.containers().await, node.containerd.tasks()), (vec![], vec![sandbox.clone()]));
    let (other, _) = unwritten(&node, "other", Code::NotFound).await;
    node.remove(&sandbox).await;
    node.remove(&other).await;
    node.assert_clean("remove").await;
}

/// How often the pause task of a sandbox was deleted, counted when no more calls come.
async fn deletes(node: &Node, sandbox: &str) -> usize {
    tokio::time::sleep(Duration::from_millis(500)).await;
    count(node, "Tasks/Delete", sandbox)
}

/// The id of the only sandbox whose task was created since `start`.
fn made_since(node: &Node, start: usize) -> String {
    let calls = node.containerd.calls().split_off(start);
    let mut made = calls.into_iter().filter(|call| call.method == "Tasks/Create").map(|call| call.object);
    let id = made.next().unwrap();
    assert_eq!(made.next(), None);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_an_unclaimed_pod_has_its_pause_task_deleted_once() {
    let node = Node::start().await;
    let pod = node.pod("web");
    for round in 0..10 {
        let start = node.containerd.calls().len();
        let gate = node.containerd.hang("Tasks/Start", 1);
        let (mut cri, request) = (node.cri(), pod.clone());
        node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, gate.arrived()).await;
        gate.open();
        let sandbox = made_since(&node, start);
        let mut edited = pod.clone();
        let annotations = &mut edited.config.as_mut().unwrap().annotations;
        annotations.insert("edited".to_owned(), round.to_string());
        let error = node.cri().run_pod_sandbox(edited).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        node.assert_clean("the old config").await;
        assert_eq!(deletes(&node, &sandbox).await, 1, "round {round}");
    }
}

/// The other ways in which a pause task can end.
#[tokio::test(flavor = "multi_thread")]
async fn f11_a_pause_task_is_deleted_once_however_it_ends() {
    let node = Node::start().await;
    let pod = node.pod("web");
    node.cni.fail("ADD");
    let start = node.containerd.calls().len();
    node.cri().run_pod_sandbox(pod.clone()).await.unwrap_err();
    node.assert_clean("a failed ADD").await;
    assert_eq!(deletes(&node, &made_since(&node, start)).await, 1, "when the network fails");
    node.cni.heal();

    let sandbox = node.run(&pod).await;
    node.remove(&sandbox).await;
    assert_eq!(deletes(&node, &sandbox).await, 1, "when it is stopped");

    let sandbox = node.run(&pod).await;
    node.containerd.end(&sandbox, 137);
    node.remove(&sandbox).await;
    assert_eq!(deletes(&node, &sandbox).await, 1, "when it ends while it is stopped");
    node.assert_clean("remove").await;
}

/// A container whose daemon was killed between creating its task and starting it.
async fn created_task(node: &mut Node, name: &str) -> (String, String) {
    let pod = node.pod(name);
    let sandbox = node.run(&pod).await;
    let id = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    let gate = node.containerd.hang("Tasks/Start", 1);
    let (mut cri, request) = (node.cri(), StartContainerRequest { container_id: id.clone() });
    let call = tokio::spawn(async move { cri.start_container(request).await });
    gate.arrived().await;
    node.kill();
    call.await.unwrap().unwrap_err();
    // So that the hanging call is not carried out.
    node.containerd.stop();
    node.containerd.heal();
    node.containerd.serve();
    assert!(node.containerd.tasks().contains(&id) && !node.containerd.running().contains(&id));
    (sandbox, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_a_start_waits_until_what_a_killed_daemon_left_is_cleaned_up() {
    let mut node = Node::start().await;
    let (sandbox, id) = created_task(&mut node, "web").await;
    let gate = Gate::default();
    for method in ["Tasks/Kill", "Tasks/Delete"] {
        node.containerd.fault(method, 0, Fault::Hang(gate.clone()));
    }
    node.spawn().await;
    gate.arrived().await;
    let (mut cri, request) = (node.cri(), StartContainerRequest { container_id: id.clone() });
    let start = tokio::spawn(async move { cri.start_container(request).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!start.is_finished(), "the clean-up hangs, and the start waits for nothing: {:?}", start.await);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerCreated);
    node.containerd.heal();
    start.await.unwrap().unwrap();
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
    assert!(node.containerd.running().contains(&id));
    node.containerd.end(&id, 5);
    assert_eq!(node.ended(&id).await.exit_code, 5);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// The same without the additional delay.
#[tokio::test(flavor = "multi_thread")]
async fn f1_a_start_right_after_the_daemon_s_start_succeeds() {
    let mut node = Node::start().await;
    for round in 0..10 {
        let (sandbox, id) = created_task(&mut node, "web").await;
        node.spawn().await;
        let request = StartContainerRequest { container_id: id.clone() };
        let started = node.cri().start_container(request).await;
        assert!(started.is_ok(), "round {round}: {started:?}");
        assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "round {round}");
        assert!(node.containerd.running().contains(&id), "round {round}");
        node.remove(&sandbox).await;
        node.assert_clean("remove").await;
    }
}

/// containerd is killed during a start: runc has started the process, and its shim does not know. The process runs on
/// and counts as started. Neither another outage nor another daemon takes it for one that was only created.
#[tokio::test(flavor = "multi_thread")]
async fn f1_a_start_that_the_shim_has_missed_is_a_start() {
    let mut node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let id = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    let outage = node.containerd.outage("Tasks/Start", 1, Done::Missed, Duration::from_millis(200));
    node.cri().start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    assert!(outage.has_begun());
    let still_runs = async |node: &Node, when: &str| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "{when}");
        assert!(node.containerd.running().contains(&id) && node.containerd.signals(&id).is_empty(), "{when}");
    };
    still_runs(&node, "after the start").await;
    node.containerd.stop();
    node.containerd.serve();
    still_runs(&node, "after a restart of containerd").await;
    node.restart().await;
    still_runs(&node, "after a restart of the daemon").await;
    node.containerd.end(&id, 6);
    assert_eq!(node.ended(&id).await.exit_code, 6);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// A removal instead of a start.
#[tokio::test(flavor = "multi_thread")]
async fn f1_what_a_killed_daemon_left_can_be_removed_at_once() {
    let mut node = Node::start().await;
    let (sandbox, id) = created_task(&mut node, "web").await;
    node.spawn().await;
    node.cri().remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
    assert_eq!(node.containerd.tasks(), std::slice::from_ref(&sandbox));
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// Repeats a call as kubelet does. It must succeed within this time after the fault.
async fn succeeds(what: &str, call: impl AsyncFn() -> Result<(), tonic::Status>) {
    let limit = Instant::now() + LONGEST_PAUSE + PATIENCE;
    loop {
        match tokio::time::timeout_at(limit, call()).await {
            Ok(Ok(())) => return,
            Ok(Err(_)) if Instant::now() < limit => tokio::time::sleep(Duration::from_millis(200)).await,
            other => panic!("{what} does not succeed: {other:?}"),
        }
    }
}

/// The state of a container that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum InitialState {
    Runs,
    HasEnded,
    /// StartContainer failed, but the process runs: only the reply was lost.
    RunsUnknown,
}

/// A method fails with each code in turn, 30 times or for a minute, while the container is to be removed.
async fn goes_in_the_end(method: &str, initial: InitialState) {
    let case = format!("{method} of a container that {initial:?}");
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let id = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    if initial != InitialState::RunsUnknown {
        node.start_container(&id).await;
    }
    for (nth, code) in CODES.iter().cycle().take(30).enumerate() {
        node.containerd.fault(method, nth + 1, Fault::Error(*code));
    }
    if initial == InitialState::HasEnded {
        node.containerd.end(&id, 5);
        assert_eq!(node.ended(&id).await.exit_code, 5, "{case}");
    }
    if initial == InitialState::RunsUnknown {
        // The query that follows fails too, for a while.
        for method in ["Tasks/Get", "Tasks/List"] {
            for nth in 1..5 {
                node.containerd.fault(method, nth, Fault::Error(Code::Unavailable));
            }
        }
        node.containerd.fault("Tasks/Start", 1, Fault::LoseReply);
        let (mut cri, request) = (node.cri(), StartContainerRequest { container_id: id.clone() });
        let _ = tokio::time::timeout(Duration::from_secs(2), cri.start_container(request)).await;
    }
    let remove = || RemoveContainerRequest { container_id: id.clone() };
    let fails_until = Instant::now() + Duration::from_secs(60);
    let calls = || count(&node, method, &id);
    while calls() < 30 && Instant::now() < fails_until && node.containerd.tasks().contains(&id) {
        let (mut cri, request) = (node.cri(), remove());
        let _ = tokio::time::timeout(Duration::from_secs(2), cri.remove_container(request)).await;
        let told = node.containers().await;
        let over = told.iter().all(|(_, state)| *state == ContainerState::ContainerExited);
        assert!(!(over && node.containerd.running().contains(&id)), "{case}: it is told to have ended, and runs");
    }
    let failed = calls();
    node.containerd.heal();
    succeeds(&format!("{case}: RemoveContainer after {failed} failures"), async || {
        node.cri().remove_container(remove()).await.map(drop)
    })
    .await;
    assert_eq!((node.containers().await, node.containerd.tasks()), (vec![], vec![sandbox.clone()]), "{case}");
    node.remove(&sandbox).await;
    node.assert_clean(&case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_no_error_and_no_number_of_errors_is_a_reason_to_give_up() {
    let cases = [
        ("Tasks/Kill", InitialState::Runs),
        ("Tasks/Delete", InitialState::Runs),
        ("Tasks/Delete", InitialState::HasEnded),
        ("Tasks/Kill", InitialState::RunsUnknown),
        ("Tasks/Delete", InitialState::RunsUnknown),
    ];
    let all = cases.map(|(method, initial)| AssertUnwindSafe(goes_in_the_end(method, initial)).catch_unwind());
    // The cases themselves have printed the reason.
    let failed = futures_util::future::join_all(all).await.into_iter().filter(Result::is_err).count();
    assert_eq!(failed, 0, "of {} cases", cases.len());
}
