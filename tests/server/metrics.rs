//! The metrics page: which calls the server got, where the time went, and what hangs at which stage.

use pontoon::api::v1::*;

use crate::support::containerd::Fault;
use crate::support::server::Node;
use crate::support::until;

/// The value of the page's line for this metric with these labels; `None` when there is no such line.
fn value(page: &str, metric: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(' ')))?;
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn calls(page: &str, method: &str, code: &str) -> Option<f64> {
    value(page, &format!("pontoon_rpc_duration_seconds_count{{method=\"{method}\",code=\"{code}\"}}"))
}

fn stage(page: &str, operation: &str, stage: &str) -> Option<f64> {
    value(page, &format!("pontoon_stage_duration_seconds_count{{operation=\"{operation}\",stage=\"{stage}\"}}"))
}

fn in_flight(page: &str, operation: &str, stage: &str) -> Option<f64> {
    value(page, &format!("pontoon_operations_in_flight{{operation=\"{operation}\",stage=\"{stage}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_life_is_in_calls_and_stages() {
    let node = Node::start().await;
    let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
    let page = node.metrics().await;
    assert!(page.ends_with("# EOF\n"), "{page}");
    for method in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        assert_eq!(calls(&page, method, "OK"), Some(1.0), "{method}: {page}");
    }
    assert!(calls(&page, "Status", "OK").is_some(), "reads are calls too: {page}");
    for name in ["record", "files", "netns", "cni", "task_create", "task_start"] {
        assert!(stage(&page, "RunPodSandbox", name).is_some(), "{name}: {page}");
    }
    for name in ["plan", "record", "snapshot", "volumes"] {
        assert_eq!(stage(&page, "CreateContainer", name), Some(1.0), "{name}: {page}");
    }
    for name in ["snapshot", "streams", "task_create", "task_start"] {
        assert_eq!(stage(&page, "StartContainer", name), Some(1.0), "{name}: {page}");
    }
    let created = "pontoon_containerd_calls_total{method=\"Tasks/Create\",code=\"OK\"}";
    assert_eq!(value(&page, created), Some(2.0), "{page}");
    let added = "pontoon_cni_duration_seconds_count{verb=\"ADD\",plugin=\"fakenet\",result=\"ok\"}";
    assert_eq!(value(&page, added), Some(1.0), "{page}");
    assert!(!page.contains("pontoon_operations_in_flight{"), "nothing runs: {page}");

    node.remove(&sandbox).await;
    let page = node.metrics().await;
    assert_eq!(stage(&page, "StopPodSandbox", "cni"), Some(1.0), "{page}");
    assert_eq!(stage(&page, "RemovePodSandbox", "record"), Some(1.0), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_codes_and_an_unknown_method_no_name() {
    let node = Node::start().await;
    let request = ContainerStatusRequest { container_id: "nobody".to_owned(), verbose: false };
    node.cri().container_status(request).await.unwrap_err();
    node.cni.fail("ADD");
    node.cri().run_pod_sandbox(node.pod("web")).await.unwrap_err();
    let mut raw = tonic::client::Grpc::new(node.channel());
    raw.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/evil.v1.Label/make-one-up");
    let codec = tonic_prost::ProstCodec::<StatusRequest, StatusResponse>::default();
    raw.unary(tonic::Request::new(StatusRequest::default()), path, codec).await.unwrap_err();
    let page = node.metrics().await;
    assert_eq!(calls(&page, "ContainerStatus", "NotFound"), Some(1.0), "{page}");
    assert_eq!(calls(&page, "RunPodSandbox", "Internal"), Some(1.0), "{page}");
    assert_eq!(calls(&page, "unknown", "Unimplemented"), Some(1.0), "{page}");
    assert!(!page.contains("make-one-up"), "{page}");
    assert_eq!(stage(&page, "RunPodSandbox", "undo"), Some(1.0), "{page}");
    let failed = "pontoon_cni_duration_seconds_count{verb=\"ADD\",plugin=\"fakenet\",result=\"error\"}";
    assert_eq!(value(&page, failed), Some(1.0), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_in_flight_in_its_stage_when_its_client_has_left() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let gate = node.containerd.hang("Tasks/Create", 1);
    let (mut cri, request) = (node.cri(), pod.clone());
    node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, gate.arrived()).await;
    let page = node.metrics().await;
    assert_eq!(calls(&page, "RunPodSandbox", "Canceled"), Some(1.0), "{page}");
    assert_eq!(in_flight(&page, "RunPodSandbox", "task_create"), Some(1.0), "{page}");
    let longest = "pontoon_operations_longest_seconds{operation=\"RunPodSandbox\",stage=\"task_create\"}";
    assert!(value(&page, longest).is_some_and(|seconds| seconds > 0.0), "{page}");
    gate.open();
    let id = node.run(&pod).await;
    assert!(!node.metrics().await.contains("pontoon_operations_in_flight{"));
    node.remove(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_alive_while_it_runs() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let alive = async || value(&node.metrics().await, "pontoon_streams{kind=\"exec_sync\"}").unwrap();
    assert_eq!(alive().await, 0.0);
    let gate = node.containerd.hang("Tasks/Start", 1);
    let request = ExecSyncRequest { container_id: id, cmd: vec!["fake".to_owned(), "exit=0".to_owned()], timeout: 10 };
    let mut cri = node.cri();
    let exec = tokio::spawn(async move { cri.exec_sync(request).await });
    gate.arrived().await;
    assert_eq!(alive().await, 1.0);
    gate.open();
    exec.await.unwrap().unwrap();
    assert_eq!(alive().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_refuses_is_counted_by_its_code() {
    let node = Node::start().await;
    node.containerd.fault("Tasks/Create", 1, Fault::Error(tonic::Code::ResourceExhausted));
    node.cri().run_pod_sandbox(node.pod("web")).await.unwrap_err();
    let refused = "pontoon_containerd_calls_total{method=\"Tasks/Create\",code=\"ResourceExhausted\"}";
    assert_eq!(value(&node.metrics().await, refused), Some(1.0));
    node.containerd.heal();
    node.containerd.fault("Tasks/Create", 1, Fault::Disconnect);
    node.cri().run_pod_sandbox(node.pod("web")).await.unwrap_err();
    let broken = "pontoon_containerd_calls_total{method=\"Tasks/Create\",code=\"Unavailable\"}";
    let page = node.metrics().await;
    assert!(value(&page, broken) == Some(1.0) || page.contains("method=\"Tasks/Create\",code=\"Canceled\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_are_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::start().await;
    for path in [node.metrics_socket(), node.admin_socket()] {
        until("it is there", || path.exists()).await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}
