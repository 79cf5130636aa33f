//! StartContainer: the container runs, or it has exited with a reason.

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::{Fault, is_found_again};
use crate::support::server::Node;
use crate::support::{requests, until};

async fn node(command: &[&str]) -> (Node, String, CreateContainerRequest) {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let request = requests::container(&sandbox, &pod, "main", command);
    (node, sandbox, request)
}

fn start(id: &str) -> StartContainerRequest {
    StartContainerRequest { container_id: id.to_owned() }
}

async fn remove(node: &Node, id: &str) {
    node.cri().remove_container(RemoveContainerRequest { container_id: id.to_owned() }).await.unwrap();
}

/// The calls to containerd of one successful start.
async fn steps(node: &Node, request: &CreateContainerRequest) -> Vec<(String, usize)> {
    let id = node.create(request).await;
    let begin = node.containerd.calls().len();
    node.start_container(&id).await;
    let steps = node.containerd.steps_since(begin);
    remove(node, &id).await;
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_writes_is_in_its_log_when_it_has_exited() {
    let (node, _, request) = node(&["fake", "out=hello\n", "err=oh\n", "exit=3"]).await;
    let id = node.create(&request).await;
    node.start_container(&id).await;
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at > 0 && status.started_at >= status.created_at && status.finished_at >= status.started_at);
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    assert!(log.contains(" stdout F hello\n") && log.contains(" stderr F oh\n"), "{log}");
    until("the task is deleted", || !node.containerd.tasks().contains(&id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_is_a_start_error_and_the_next_attempt_runs() {
    let (node, sandbox, mut request) = node(&["fake"]).await;
    let before = node.leftovers();
    let steps = steps(&node, &request).await;
    assert!(steps.len() >= 3, "{steps:?}");
    for (method, nth) in steps {
        for fault in [Fault::Error(Code::Unknown), Fault::Disconnect, Fault::LoseReply] {
            let case = format!("{method} number {nth}: {fault:?}");
            let expected = if matches!(fault, Fault::Error(_)) { Code::Internal } else { Code::Unavailable };
            request = requests::next_attempt(&request);
            let id = node.create(&request).await;
            let found = is_found_again(&method, &fault);
            node.containerd.fault(&method, nth, fault);
            let result = node.cri().start_container(start(&id)).await;
            node.containerd.heal();
            if found {
                result.expect(&case);
                assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "{case}");
                remove(&node, &id).await;
                continue;
            }
            let error = result.expect_err(&case);
            assert_eq!(error.code(), expected, "{case}: {error}");

            let status = node.status(&id).await;
            assert_eq!(status.state(), ContainerState::ContainerExited, "{case}");
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{case}");
            assert!(!status.message.is_empty() && status.finished_at >= status.created_at, "{case}: {status:?}");
            assert_eq!(node.containerd.tasks(), std::slice::from_ref(&sandbox), "{case}");

            request = requests::next_attempt(&request);
            let next = node.create(&request).await;
            node.start_container(&next).await;
            assert_eq!(node.status(&next).await.state(), ContainerState::ContainerRunning, "{case}");
            for id in [id, next] {
                remove(&node, &id).await;
            }
            assert_eq!(node.leftovers(), before, "{case}");
        }
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_when_its_client_leaves_at_any_step() {
    let (node, sandbox, mut request) = node(&["fake"]).await;
    for (method, nth) in steps(&node, &request).await {
        request = requests::next_attempt(&request);
        let id = node.create(&request).await;
        let gate = node.containerd.hang(&method, nth);
        let (mut cri, call) = (node.cri(), start(&id));
        node.call_and_leave(async move { cri.start_container(call).await }, gate.arrived()).await;
        assert_eq!(node.status(&id).await.state(), ContainerState::ContainerCreated, "{method} number {nth}");
        gate.open();
        // A stop waits for the running start, and then stops the container.
        let stop = StopContainerRequest { container_id: id.clone(), timeout: 60 };
        node.cri().stop_container(stop).await.unwrap();
        let status = node.status(&id).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 143), "{method} number {nth}");
        remove(&node, &id).await;
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_once() {
    let (node, _, request) = node(&["fake"]).await;
    let id = node.create(&request).await;
    node.start_container(&id).await;
    let error = node.cri().start_container(start(&id)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_in_a_pod_whose_pause_process_has_ended() {
    let (node, sandbox, request) = node(&["fake"]).await;
    let id = node.create(&request).await;
    node.containerd.end(&sandbox, 137);
    until("the end is seen", || !node.containerd.tasks().contains(&sandbox)).await;
    assert_eq!(node.sandboxes().await, [(sandbox.clone(), PodSandboxState::SandboxNotready)]);
    let error = node.cri().start_container(start(&id)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}
