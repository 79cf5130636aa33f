//! A creation that failed, or whose result no caller waited for, is rolled back, however long that takes.

use std::time::Duration;

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::Fault;
use crate::support::server::{Client, Node};
use crate::support::{requests, until};

/// The time for which a caller waits for an undo, plus a margin.
const PATIENCE: Duration = Duration::from_secs(70);

fn count(node: &Node, method: &str, object: &str) -> usize {
    node.containerd.calls().iter().filter(|call| call.method == method && call.object == object).count()
}

async fn listed(node: &Node) -> (String, PodSandboxState) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(one) = node.sandboxes().await.pop() {
            return one;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing is listed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn remove(mut cri: Client, id: String) {
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
}

/// Only the caller's wait ends. The sandbox is listed, its Stop and Remove join the undo, and nothing is done twice.
#[tokio::test(flavor = "multi_thread")]
async fn f7_an_undo_of_a_sandbox_goes_on_when_its_caller_has_waited_long_enough() {
    let node = Node::start().await;
    let gate = node.containerd.hang("Store/Delete", 1);
    node.cni.fail("ADD");
    let (mut cri, pod) = (node.patient_cri(), node.pod("web"));
    let request = pod.clone();
    let run = tokio::spawn(async move { cri.run_pod_sandbox(request).await });
    gate.arrived().await;
    assert_eq!(node.sandboxes().await, [], "in flight is not listed");

    let (id, state) = listed(&node).await;
    assert_eq!(state, PodSandboxState::SandboxNotready);
    let error = run.await.unwrap().unwrap_err();
    assert!(error.message().contains("told to fail"), "{error}");
    assert!(error.message().contains("delete sandbox record: not done within"), "{error}");
    let again = node.cri().run_pod_sandbox(pod.clone()).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    let removal = tokio::spawn(remove(node.patient_cri(), id.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!removal.is_finished(), "it joins the undo");

    gate.open();
    removal.await.unwrap();
    node.assert_clean("the undo").await;
    assert_eq!(count(&node, "Store/Delete", &id), 1);
    node.cni.heal();
    let id = node.run(&pod).await;
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

/// The sandbox stays because DEL fails. From then on kubelet stops it again and again: each error also has the cause.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_fails_does_not_hide_why_the_pod_could_not_be_run() {
    const ADD: &str = "cni plugin fakenet ADD failed: told to fail (code 11)";
    const DEL: &str = "cni plugin fakenet DEL failed: told to fail (code 11)";
    let in_order = |text: &str| {
        let told = text.split_once(ADD).and_then(|(_, rest)| rest.split_once("; and what could not be undone: "));
        assert!(told.is_some_and(|(_, left)| left.contains(DEL)), "{text}");
    };
    let node = Node::start().await;
    node.cni.fail("ADD");
    node.cni.fail("DEL");
    let error = node.cri().run_pod_sandbox(node.pod("web")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    in_order(error.message());
    let (id, state) = listed(&node).await;
    assert_eq!(state, PodSandboxState::SandboxNotready);
    let log = node.log();
    let line = log.lines().find(|line| line.contains("the rollback is not complete")).expect("it is logged");
    assert!(line.contains(ADD) && line.contains(DEL), "{line}");
    // The keys say which sandbox it is, and no field repeats that.
    assert!(line.ends_with(&format!(" pod=default/web sandbox={id}")) && !line.contains(" id="), "{line}");

    let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    let error = node.cri().stop_pod_sandbox(stop).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    assert!(error.message().starts_with(&format!("sandbox {id} could not be created: ")), "{error}");
    in_order(error.message());
    let removal = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    in_order(node.cri().remove_pod_sandbox(removal).await.unwrap_err().message());

    node.cni.heal();
    remove(node.cri(), id).await;
    node.assert_clean("remove").await;
}

/// The code is that of the cause, whatever the undo fails with.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_fails_does_not_hide_why_a_container_could_not_be_created() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    // From then on the image's passwd is cached. To read it, a snapshot is created and removed, which would fail too.
    let first = node.cri().create_container(requests::container(&sandbox, &pod, "first", &["fake"])).await.unwrap();
    let removal = RemoveContainerRequest { container_id: first.into_inner().container_id };
    node.cri().remove_container(removal).await.unwrap();
    node.containerd.fault("Snapshots/Prepare", 0, Fault::Error(Code::ResourceExhausted));
    node.containerd.fault("Snapshots/Remove", 0, Fault::Error(Code::FailedPrecondition));
    let request = requests::container(&sandbox, &pod, "main", &["fake"]);
    let error = node.cri().create_container(request).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let (cause, left) = error.message().split_once("; and what could not be undone: ").expect("both are told");
    assert!(cause.starts_with("prepare snapshot "), "{error}");
    assert!(left.starts_with("remove snapshot: remove snapshot "), "{error}");
    let (id, _) = node.containers().await.pop().unwrap();
    let removal = RemoveContainerRequest { container_id: id.clone() };
    let error = node.cri().remove_container(removal.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().starts_with(&format!("container {id} could not be created: prepare snapshot ")), "{error}");
    node.containerd.heal();
    node.cri().remove_container(removal).await.unwrap();
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f7_an_undo_of_a_container_goes_on_when_its_caller_has_waited_long_enough() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let gate = node.containerd.hang("Containers/Delete", 1);
    node.containerd.fault("Snapshots/Prepare", 0, Fault::Error(Code::Unknown));
    let (mut cri, request) = (node.patient_cri(), requests::container(&sandbox, &pod, "main", &["fake"]));
    let same = request.clone();
    let create = tokio::spawn(async move { cri.create_container(same).await });
    gate.arrived().await;
    let error = create.await.unwrap().unwrap_err();
    assert!(error.message().contains("delete container record: not done within"), "{error}");
    let containers = node.containers().await;
    let id = containers[0].0.clone();
    let mut cri = node.patient_cri();
    let removed = id.clone();
    let removal =
        tokio::spawn(async move { cri.remove_container(RemoveContainerRequest { container_id: removed }).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!removal.is_finished(), "it joins the undo");
    gate.open();
    removal.await.unwrap().unwrap();
    until("the record is gone", || !node.containerd.containers().contains(&id)).await;
    assert_eq!(count(&node, "Containers/Delete", &id), 1);
    node.containerd.heal();
    node.create(&request).await;
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}
