//! Pods with the longest annotations that Kubernetes allows, and records that are too large for a message.

use std::time::Duration;

use pontoon::api::v1::*;
use prost::Message as _;
use tonic::Code;

use crate::support::server::Node;

const CONFIG: &str = "pontoon.sandbox.config";
/// Kubernetes allows 256 KiB.
const ANNOTATION: usize = 250 << 10;

/// Adds stopped pods with long annotations, as if from an earlier daemon.
async fn add_pods(node: &mut Node, number: usize) {
    let template = node.run(&node.pod("template")).await;
    let stop = StopPodSandboxRequest { pod_sandbox_id: template.clone() };
    node.cri().stop_pod_sandbox(stop).await.unwrap();
    node.kill();
    let stored = node.containerd.sandbox(&template).unwrap();
    let config = PodSandboxConfig::decode(stored.extensions[CONFIG].value.as_slice()).unwrap();
    for number in 1..number {
        // Ids with any first digits, as random ids have.
        let id = format!("{:016x}{:048x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), number);
        let mut config = config.clone();
        config.annotations.insert("large".to_owned(), "x".repeat(ANNOTATION));
        config.metadata.as_mut().unwrap().name = format!("pod-{number}");
        node.containerd.edit_sandbox(&id, |record| {
            record.clone_from(&stored);
            record.sandbox_id.clone_from(&id);
            record.extensions.get_mut(CONFIG).unwrap().value = config.encode_to_vec();
        });
    }
}

/// The number of pods, from the streamed list, which has no size limit.
async fn streamed(node: &Node) -> usize {
    let request = StreamPodSandboxesRequest::default();
    let mut stream = node.cri().stream_pod_sandboxes(request).await.unwrap().into_inner();
    let mut number = 0;
    while let Some(message) = stream.message().await.unwrap() {
        number += message.decoded().unwrap().len();
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_a_thousand_pods_with_the_longest_annotations_are_served_after_a_restart() {
    let mut node = Node::start().await;
    add_pods(&mut node, 1000).await;
    // Both processes handle 250 MB of records, which takes a busy machine longer than an ordinary start.
    node.spawn_within(Duration::from_secs(60)).await;
    let error = node.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.message().ends_with("; StreamPodSandboxes gives it in parts"), "{error}");
    assert_eq!(streamed(&node).await, 1000);
    let answers = node.containerd.calls().into_iter().filter(|call| call.method == "Store/List").count();
    println!("{answers} lists of containerd");
    // A list that fits is returned as usual, and pods can be created and removed.
    let id = node.run(&node.pod("web")).await;
    let filter = PodSandboxFilter { id: id.clone(), ..PodSandboxFilter::default() };
    let request = ListPodSandboxRequest { filter: Some(filter) };
    let listed = node.cri().list_pod_sandbox(request).await.unwrap().into_inner();
    assert_eq!(listed.decoded().unwrap().len(), 1);
    node.remove(&id).await;
    assert_eq!(streamed(&node).await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_a_record_that_is_too_large_alone_is_listed_by_its_id_and_can_be_removed() {
    let mut node = Node::start().await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let other = node.run(&node.pod("other")).await;
    node.kill();
    let huge = || prost_types::Any { type_url: String::new(), value: vec![0; 17 << 20] };
    node.containerd.edit_sandbox(&sandbox, |record| drop(record.extensions.insert("huge".to_owned(), huge())));
    node.containerd.edit_container(&container, |record| drop(record.extensions.insert("huge".to_owned(), huge())));
    node.spawn().await;
    let mut listed: Vec<String> = node.sandboxes().await.into_iter().map(|(id, _)| id).collect();
    listed.sort();
    let mut expected = [sandbox.clone(), other];
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(node.containers().await, [(container.clone(), ContainerState::ContainerUnknown)]);
    node.cri().remove_container(RemoveContainerRequest { container_id: container }).await.unwrap();
    node.remove_all().await;
    node.assert_clean("remove").await;
}
