//! RunPodSandbox creates a complete pod, or leaves nothing behind.

use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::{Fault, is_found_again};
use crate::support::server::Node;
use crate::support::{cni, until};

/// The calls to containerd of one successful run.
async fn steps(node: &Node, pod: &RunPodSandboxRequest) -> Vec<(String, usize)> {
    let start = node.containerd.calls().len();
    let id = node.run(pod).await;
    let steps = node.containerd.steps_since(start);
    node.remove(&id).await;
    node.assert_clean("a pod's whole life").await;
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_a_name_an_address_and_namespaces_of_its_own() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let id = node.run(&pod).await;
    assert_eq!(node.sandboxes().await, [(id.clone(), PodSandboxState::SandboxReady)]);
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.metadata, pod.config.and_then(|config| config.metadata));
    assert_eq!(status.network.unwrap().ip, cni::ADDRESS);
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_nothing_and_the_same_request_then_succeeds() {
    let node = Node::start().await;
    fail_at_any_step(&node, node.pod("web")).await;
}

/// The user namespace of the pod is pinned and removed like its network namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_no_user_namespace() {
    let node = Node::start().await;
    let mut pod = node.pod("web");
    let ids = vec![IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }];
    let options = UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids };
    let linux = pod.config.as_mut().unwrap().linux.as_mut().unwrap();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default().userns_options = Some(options);
    fail_at_any_step(&node, pod.clone()).await;
    node.cni.fail("ADD");
    node.cri().run_pod_sandbox(pod).await.unwrap_err();
    node.assert_clean("a failed ADD").await;
}

async fn fail_at_any_step(node: &Node, pod: RunPodSandboxRequest) {
    let steps = steps(node, &pod).await;
    assert!(steps.len() >= 4, "{steps:?}");
    for (method, nth) in steps {
        let faults = [
            (Fault::Error(Code::Unknown), Code::Internal),
            (Fault::Error(Code::ResourceExhausted), Code::ResourceExhausted),
            (Fault::Disconnect, Code::Unavailable),
            (Fault::LoseReply, Code::Unavailable),
        ];
        for (fault, expected) in faults {
            let case = format!("{method} number {nth}: {fault:?}");
            let found = is_found_again(&method, &fault);
            node.containerd.fault(&method, nth, fault);
            let result = node.cri().run_pod_sandbox(pod.clone()).await;
            node.containerd.heal();
            if found {
                node.remove(&result.expect(&case).into_inner().pod_sandbox_id).await;
            } else {
                let error = result.expect_err(&case);
                assert_eq!(error.code(), expected, "{case}: {error}");
            }
            node.assert_clean(&case).await;
            let id = node.run(&pod).await;
            node.remove(&id).await;
            node.assert_clean(&case).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_leaves_nothing() {
    let node = Node::start().await;
    let pod = node.pod("web");
    node.cni.fail("ADD");
    let error = node.cri().run_pod_sandbox(pod.clone()).await.unwrap_err();
    assert!(error.message().contains("told to fail"), "{error}");
    node.assert_clean("a failed ADD").await;
    node.cni.heal();
    let id = node.run(&pod).await;
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_at_any_step_finds_its_pod_when_it_asks_again() {
    let node = Node::start().await;
    let pod = node.pod("web");
    for (method, nth) in steps(&node, &pod).await {
        let gate = node.containerd.hang(&method, nth);
        let (mut cri, request) = (node.cri(), pod.clone());
        node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, gate.arrived()).await;
        assert_eq!(node.sandboxes().await, [], "in flight is not listed");
        gate.open();
        let id = node.run(&pod).await;
        assert_eq!(node.containerd.sandboxes(), std::slice::from_ref(&id), "{method} number {nth}");
        assert_eq!(node.sandboxes().await, [(id.clone(), PodSandboxState::SandboxReady)]);
        node.remove(&id).await;
        node.assert_clean(&method).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_the_network_s_add_finds_its_pod_too() {
    let node = Node::start().await;
    let pod = node.pod("web");
    node.cni.hang("ADD");
    let (mut cri, request) = (node.cri(), pod.clone());
    let added = until("ADD", || !node.cni.calls().is_empty());
    node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, added).await;
    node.cni.heal();
    let id = node.run(&pod).await;
    assert_eq!(node.cni.calls(), [("ADD".to_owned(), id.clone())]);
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_added_beside_the_pause_container() {
    let node = Node::start().await;
    let start = Instant::now();
    node.cni.hang("ADD");
    let gate = node.containerd.hang("Tasks/Start", 1);
    let (mut cri, pod) = (node.cri(), node.pod("web"));
    let run = tokio::spawn(async move { cri.run_pod_sandbox(pod).await });
    gate.arrived().await;
    until("ADD", || !node.cni.calls().is_empty()).await;
    assert!(start.elapsed() < cni::LONGEST_HANG, "it waited until ADD had ended");
    gate.open();
    node.cni.heal();
    run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_sysctls_of_the_network_has_that_first() {
    let node = Node::start().await;
    node.cni.hang("ADD");
    let gate = node.containerd.hang("Tasks/Create", 1);
    let (mut cri, mut pod) = (node.cri(), node.pod("web"));
    let linux = pod.config.as_mut().unwrap().linux.get_or_insert_default();
    linux.sysctls.insert("net.ipv4.conf.eth0.forwarding".to_owned(), "1".to_owned());
    let run = tokio::spawn(async move { cri.run_pod_sandbox(pod).await });
    until("ADD", || !node.cni.calls().is_empty()).await;
    let early = tokio::time::timeout(Duration::from_millis(300), gate.arrived()).await;
    assert!(early.is_err(), "runc's init would write what is not there yet");
    node.cni.heal();
    gate.arrived().await;
    gate.open();
    run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_ask_for_the_same_pod_get_the_same_pod() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let gate = node.containerd.hang("Tasks/Create", 1);
    let (mut one, mut two) = (node.cri(), node.cri());
    let (request, same) = (pod.clone(), pod.clone());
    let first = tokio::spawn(async move { one.run_pod_sandbox(request).await });
    gate.arrived().await;
    let second = tokio::spawn(async move { two.run_pod_sandbox(same).await });
    // Another pod does not wait for it, and does not disturb it.
    let other = node.run(&node.pod("db")).await;
    gate.open();
    let first = first.await.unwrap().unwrap().into_inner().pod_sandbox_id;
    let second = second.await.unwrap();
    match second {
        Ok(reply) => assert_eq!(reply.into_inner().pod_sandbox_id, first),
        // The second call came after the first had its reply.
        Err(status) => assert!(status.code() == Code::AlreadyExists && status.message().contains(&first), "{status}"),
    }
    for id in [first, other] {
        node.remove(&id).await;
    }
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_listed_already_exists() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let id = node.run(&pod).await;
    let error = node.cri().run_pod_sandbox(pod.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains(&id), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclaimed_pod_gives_way_to_a_request_with_another_config() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let gate = node.containerd.hang("Tasks/Start", 1);
    let (mut cri, request) = (node.cri(), pod.clone());
    node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, gate.arrived()).await;
    gate.open();
    let mut edited = pod.clone();
    edited.config.as_mut().unwrap().annotations.insert("edited".to_owned(), "yes".to_owned());
    let error = node.cri().run_pod_sandbox(edited.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    node.assert_clean("the old config").await;
    let id = node.run(&edited).await;
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_is_listed_until_it_is_removed() {
    let node = Node::start().await;
    let pod = node.pod("web");
    node.cni.fail("DEL");
    node.containerd.fault("Tasks/Start", 1, Fault::Error(Code::Unknown));
    node.containerd.fault("Store/Delete", 0, Fault::Error(Code::Unknown));
    let error = node.cri().run_pod_sandbox(pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    let listed = node.sandboxes().await;
    assert_eq!(listed.len(), 1);
    let (id, state) = listed[0].clone();
    assert_eq!(state, PodSandboxState::SandboxNotready);
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    node.cri().stop_pod_sandbox(stop).await.expect_err("the address is not given back yet");
    node.cni.heal();
    node.containerd.heal();
    node.remove(&id).await;
    node.assert_clean("remove").await;
}
