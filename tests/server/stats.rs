//! Stats and metrics: known values are returned at once, whatever containerd does. The fake's containers have no
//! cgroups, so only the usage of layers is known here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::{CPU_OF_EVERY_TASK, Fault};
use crate::support::server::Node;
use crate::support::{PATIENCE, requests};

async fn list(node: &Node, filter: ContainerStatsFilter) -> Vec<ContainerStats> {
    let request = ListContainerStatsRequest { filter: Some(filter) };
    node.cri().list_container_stats(request).await.unwrap().into_inner().stats
}

async fn list_pods(node: &Node, filter: PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
    let request = ListPodSandboxStatsRequest { filter: Some(filter) };
    node.cri().list_pod_sandbox_stats(request).await.unwrap().into_inner().stats
}

fn ids(stats: &[ContainerStats]) -> Vec<&str> {
    stats.iter().map(|stats| stats.attributes.as_ref().unwrap().id.as_str()).collect()
}

/// Waits until the layer of each container was measured. A list waits for that for 50 ms at most (docs/specification.md),
/// and a busy machine may need longer.
async fn until_measured(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    while list(node, ContainerStatsFilter::default()).await.iter().any(|stats| stats.writable_layer.is_none()) {
        assert!(Instant::now() < deadline, "the layers are not known yet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn one(node: &Node, id: &str) -> Result<ContainerStats, tonic::Status> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    node.cri().container_stats(request).await.map(|reply| reply.into_inner().stats.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_of_a_container_have_its_metadata_and_its_layer() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
    let config = request.config.as_mut().unwrap();
    config.labels = HashMap::from([("app".to_owned(), "web".to_owned())]);
    config.annotations = HashMap::from([("note".to_owned(), "kept".to_owned())]);
    let id = node.create(&request).await;
    node.start_container(&id).await;

    until_measured(&node).await;
    let stats = one(&node, &id).await.unwrap();
    let attributes = stats.attributes.unwrap();
    let config = request.config.unwrap();
    assert_eq!((attributes.id, attributes.metadata), (id.clone(), config.metadata));
    assert_eq!((attributes.labels, attributes.annotations), (config.labels, config.annotations));
    let layer = stats.writable_layer.unwrap();
    assert_eq!((layer.used_bytes.unwrap().value, layer.inodes_used.unwrap().value), (4096, 1));
    assert!(layer.timestamp > 0);
    // Set without a call of ImageFsInfo, which looks the directory up as well.
    assert!(layer.fs_id.is_some());

    // A short id is enough, and a wrong one is an error. After the end of the process only the values read from it are
    // missing.
    assert!(one(&node, &id[..20]).await.is_ok());
    assert_eq!(one(&node, &"0".repeat(64)).await.unwrap_err().code(), Code::NotFound);
    node.containerd.end(&id, 0);
    node.ended(&id).await;
    assert!(one(&node, &id).await.unwrap().writable_layer.is_some());
    assert!(!node.containerd.calls().iter().any(|call| call.method == "Tasks/Metrics"), "a shim was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_what_their_filter_says_and_streams_have_the_same() {
    let node = Node::start().await;
    let (web, main) = node.run_with_container("web", &["fake"]).await;
    let (db, other) = node.run_with_container("db", &["fake"]).await;
    let mut all = vec![main.as_str(), other.as_str()];
    all.sort_unstable();
    assert_eq!(ids(&list(&node, ContainerStatsFilter::default()).await), all);
    let filter = ContainerStatsFilter { id: main[..12].to_owned(), ..ContainerStatsFilter::default() };
    assert_eq!(ids(&list(&node, filter).await), [main.as_str()]);
    let filter = ContainerStatsFilter { pod_sandbox_id: db.clone(), ..ContainerStatsFilter::default() };
    assert_eq!(ids(&list(&node, filter).await), [other.as_str()]);
    let nobody = HashMap::from([("app".to_owned(), "nobody".to_owned())]);
    let filter = ContainerStatsFilter { label_selector: nobody.clone(), ..ContainerStatsFilter::default() };
    assert!(list(&node, filter).await.is_empty());

    let pods = list_pods(&node, PodSandboxStatsFilter { id: web.clone(), ..PodSandboxStatsFilter::default() }).await;
    assert_eq!(pods.len(), 1);
    assert_eq!(ids(&pods[0].linux.as_ref().unwrap().containers), [main.as_str()]);
    let filter = PodSandboxStatsFilter { label_selector: nobody, ..PodSandboxStatsFilter::default() };
    assert!(list_pods(&node, filter).await.is_empty());

    let mut stream =
        node.cri().stream_container_stats(StreamContainerStatsRequest::default()).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(ids(&message.container_stats), all);
    assert!(stream.message().await.unwrap().is_none());
    let mut stream =
        node.cri().stream_pod_sandbox_stats(StreamPodSandboxStatsRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().pod_sandbox_stats.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_not_ready_has_no_stats() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let request = PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = node.cri().pod_sandbox_stats(request.clone()).await.unwrap().into_inner().stats.unwrap();
    assert_eq!(stats.attributes.unwrap().id, sandbox);
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    assert_eq!(node.cri().pod_sandbox_stats(request).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(list_pods(&node, PodSandboxStatsFilter::default()).await.is_empty());
    // Its container still exists and has stats.
    assert_eq!(ids(&list(&node, ContainerStatsFilter::default()).await), [id.as_str()]);
    let missing = PodSandboxStatsRequest { pod_sandbox_id: "0".repeat(64) };
    assert_eq!(node.cri().pod_sandbox_stats(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_takes_long_to_measure_delays_no_call() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let gate = node.containerd.hang("Snapshots/Usage", 0);
    for _ in 0..3 {
        let start = Instant::now();
        let stats = list(&node, ContainerStatsFilter::default()).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!((ids(&stats), &stats[0].writable_layer), (vec![id.as_str()], &None));
    }
    gate.open();
    node.containerd.heal();
    until_measured(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_containerd_all_is_answered_and_soon() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    until_measured(&node).await;
    let before = list(&node, ContainerStatsFilter::default()).await;
    node.containerd.fault("Snapshots/Usage", 0, Fault::Error(Code::Unavailable));
    node.containerd.stop();
    let start = Instant::now();
    let stats = list(&node, ContainerStatsFilter::default()).await;
    assert_eq!(ids(&stats), [id.as_str()]);
    assert_eq!(stats[0].writable_layer, before[0].writable_layer);
    assert_eq!(list_pods(&node, PodSandboxStatsFilter::default()).await.len(), 1);
    let metrics = node.cri().list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
    assert_eq!(metrics.pod_metrics.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    node.containerd.serve();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_of_ready_pods_and_running_containers_and_all_are_described() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let (stopped, _) = node.run_with_container("db", &["fake"]).await;
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: stopped }).await.unwrap();
    let mut cri = node.cri();
    let described =
        cri.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner().descriptors;
    let again = cri.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner().descriptors;
    assert_eq!(described, again);
    let pods = cri.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner().pod_metrics;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].pod_sandbox_id, sandbox);
    let containers = &pods[0].container_metrics;
    assert_eq!((containers.len(), &containers[0].container_id), (1, &id));
    let mut named = HashMap::new();
    for metric in &containers[0].metrics {
        let descriptor = described.iter().find(|descriptor| descriptor.name == metric.name).expect(&metric.name);
        assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{metric:?}");
        let of = |key: &str| descriptor.label_keys.iter().position(|other| other == key).unwrap();
        assert_eq!(metric.label_values[of("pod")], "web");
        assert_eq!(metric.label_values[of("container")], "main");
        assert_eq!(metric.label_values[of("id")], id);
        named.insert(metric.name.as_str(), metric.value.unwrap().value);
    }
    assert!(named["container_start_time_seconds"] > 1_700_000_000);
    let mut stream = cri.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().pod_sandbox_metrics.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_of_a_virtual_machine_come_from_its_shim_and_one_that_hangs_delays_no_call() {
    let node = Node::start_with("[runtimes.runc]\n[runtimes.vm]\nvirtual_machine = true\n").await;
    let mut pod = node.pod("vm");
    pod.runtime_handler = "vm".to_owned();
    let sandbox = node.run(&pod).await;
    let id = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    node.start_container(&id).await;
    let (_, other) = node.run_with_container("web", &["fake"]).await;

    let stats = one(&node, &id).await.unwrap();
    assert_eq!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value, CPU_OF_EVERY_TASK);
    assert_eq!(one(&node, &other).await.unwrap().cpu, None);
    let asked: Vec<String> = node
        .containerd
        .calls()
        .into_iter()
        .filter(|call| call.method == "Tasks/Metrics")
        .map(|call| call.object)
        .collect();
    assert_eq!(asked, [format!("id=={id}")]);

    let gate = node.containerd.hang("Tasks/Metrics", 0);
    let start = Instant::now();
    let stats = list(&node, ContainerStatsFilter::default()).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(stats.len(), 2);
    assert!(stats.iter().all(|stats| stats.cpu.is_none()), "{stats:?}");
    gate.open();
}
