//! CreateContainer creates a container, or leaves nothing behind.

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::{Fault, IMAGE};
use crate::support::requests;
use crate::support::server::Node;

/// A node with one pod, and a request for a container in it that mounts an image.
async fn node() -> (Node, String, CreateContainerRequest) {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
    let mount = Mount {
        container_path: "/image".to_owned(),
        readonly: true,
        image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
        ..Mount::default()
    };
    request.config.as_mut().unwrap().mounts.push(mount);
    (node, sandbox, request)
}

/// The calls to containerd of one successful creation, in a server that has not read the image yet.
async fn steps(node: &Node, request: &CreateContainerRequest) -> Vec<(String, usize)> {
    let start = node.containerd.calls().len();
    let id = node.create(request).await;
    let steps = node.containerd.steps_since(start);
    remove(node, &id).await;
    steps
}

async fn remove(node: &Node, id: &str) {
    let request = RemoveContainerRequest { container_id: id.to_owned() };
    node.cri().remove_container(request).await.unwrap();
}

/// Asserts that only the pod's own objects are left.
async fn assert_only_the_pod(node: &Node, before: &[String], after: &str) {
    assert_eq!(node.leftovers(), before, "{after}\n{}", node.log_tail());
    assert_eq!(node.containers().await, [], "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_created_and_its_image_s_volume_is_filled() {
    let (node, sandbox, request) = node().await;
    let id = node.create(&request).await;
    assert_eq!(node.containers().await, [(id.clone(), ContainerState::ContainerCreated)]);
    let record = node.containerd.container(&id).unwrap();
    assert_eq!((record.snapshot_key.as_str(), record.sandbox.as_str()), (id.as_str(), sandbox.as_str()));
    assert!(node.volume_files(&id).contains(&"seed".to_owned()), "the image has a file at its VOLUME");
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// The record is written before the view and refers to it, so that containerd's GC keeps the view without a lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_image_lives_as_long_as_its_container() {
    let (mut node, sandbox, request) = node().await;
    let id = node.create(&request).await;
    let volume = |node: &Node| node.leftovers().iter().any(|left| left.contains("a mount on") && left.contains(&id));
    node.containerd.collect_garbage();
    assert_eq!(node.containerd.views(), [format!("{id}-image-0")]);
    assert!(volume(&node), "{:?}", node.leftovers());
    node.restart().await;
    assert!(volume(&node), "{:?}", node.leftovers());
    let status = node.status(&id).await;
    assert_eq!(status.mounts[0].image.as_ref().unwrap().image, status.image_id);
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.cri().stop_pod_sandbox(stop).await.unwrap();
    assert!(!volume(&node), "{:?}", node.leftovers());
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// Another client of containerd deleted the record.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_a_container_that_is_gone_is_taken_off_at_the_next_start() {
    let (mut node, sandbox, request) = node().await;
    let id = node.create(&request).await;
    node.kill();
    node.containerd.delete_container(&id);
    node.containerd.collect_garbage();
    node.spawn().await;
    let left: Vec<String> = node.leftovers().into_iter().filter(|left| left.contains("image")).collect();
    assert_eq!(left, [] as [String; 0]);
    node.remove(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_nothing_and_the_same_request_then_succeeds() {
    let (mut node, sandbox, request) = node().await;
    let before = node.leftovers();
    let steps = steps(&node, &request).await;
    assert!(steps.len() >= 5, "{steps:?}");
    for (method, nth) in steps {
        for fault in [Fault::Error(Code::Unknown), Fault::Disconnect, Fault::LoseReply] {
            let case = format!("{method} number {nth}: {fault:?}");
            let lost_connection = !matches!(fault, Fault::Error(_));
            // After a restart the server reads the image again; otherwise it would use its cache.
            node.restart().await;
            node.containerd.fault(&method, nth, fault);
            let result = node.cri().create_container(request.clone()).await;
            node.containerd.heal();
            match result {
                Err(error) => {
                    let expected = if lost_connection { Code::Unavailable } else { Code::Internal };
                    assert_eq!(error.code(), expected, "{case}: {error}");
                }
                // The image was read and the container created. The view is left to containerd's GC.
                Ok(reply) => {
                    assert!(matches!(method.as_str(), "Snapshots/Remove" | "Leases/Delete"), "{case} was swallowed");
                    remove(&node, &reply.into_inner().container_id).await;
                    node.containerd.collect_garbage();
                }
            }
            node.containerd.collect_garbage();
            assert_only_the_pod(&node, &before, &case).await;
            let id = node.create(&request).await;
            remove(&node, &id).await;
            assert_only_the_pod(&node, &before, &case).await;
        }
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_at_any_step_finds_its_container_when_it_asks_again() {
    let (mut node, sandbox, request) = node().await;
    for (method, nth) in steps(&node, &request).await {
        node.restart().await;
        let gate = node.containerd.hang(&method, nth);
        let (mut cri, same) = (node.cri(), request.clone());
        node.call_and_leave(async move { cri.create_container(same).await }, gate.arrived()).await;
        assert_eq!(node.containers().await, [], "in flight is not listed");
        gate.open();
        let id = node.create(&request).await;
        assert_eq!(node.containers().await, [(id.clone(), ContainerState::ContainerCreated)]);
        let mut records = node.containerd.containers();
        records.retain(|record| *record != sandbox);
        assert_eq!(records, std::slice::from_ref(&id), "{method} number {nth}");
        remove(&node, &id).await;
        node.containerd.heal();
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_meanwhile_gets_no_container() {
    let (node, sandbox, request) = node().await;
    let gate = node.containerd.hang("Snapshots/Prepare", 1);
    let mut cri = node.cri();
    let creating = tokio::spawn(async move { cri.create_container(request).await });
    gate.arrived().await;
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.cri().stop_pod_sandbox(stop).await.unwrap();
    gate.open();
    let error = creating.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_is_listed_until_it_is_removed() {
    let (node, sandbox, request) = node().await;
    node.containerd.fault("Snapshots/Prepare", 1, Fault::LoseReply);
    node.containerd.fault("Containers/Delete", 0, Fault::Error(Code::Unknown));
    node.cri().create_container(request.clone()).await.unwrap_err();
    let listed = node.containers().await;
    assert_eq!(listed.len(), 1);
    let start = StartContainerRequest { container_id: listed[0].0.clone() };
    let error = node.cri().start_container(start).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    node.containerd.heal();
    remove(&node, &listed[0].0).await;
    node.create(&request).await;
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_is_not_found_and_nothing_is_made() {
    let (node, _, mut request) = node().await;
    let before = node.leftovers();
    request.config.as_mut().unwrap().image = Some(ImageSpec { image: "no/such:1".to_owned(), ..ImageSpec::default() });
    let error = node.cri().create_container(request).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert_only_the_pod(&node, &before, "no image").await;
}
