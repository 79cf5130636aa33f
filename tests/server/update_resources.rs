//! UpdateContainerResources and UpdatePodSandboxResources change everything or nothing.

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::Fault;
use crate::support::requests;
use crate::support::server::Node;

fn memory(bytes: i64) -> Option<LinuxContainerResources> {
    Some(LinuxContainerResources { memory_limit_in_bytes: bytes, ..LinuxContainerResources::default() })
}

fn update(id: &str, bytes: i64) -> UpdateContainerResourcesRequest {
    let container_id = id.to_owned();
    UpdateContainerResourcesRequest { container_id, linux: memory(bytes), ..Default::default() }
}

/// A node with a pod and a container that has a memory limit, started or not.
async fn node(started: bool) -> (Node, String) {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
    request.config.as_mut().unwrap().linux.as_mut().unwrap().resources = memory(64 << 20);
    let id = node.create(&request).await;
    if started {
        node.start_container(&id).await;
    }
    (node, id)
}

async fn limit(node: &Node, id: &str) -> i64 {
    node.status(id).await.resources.unwrap().linux.unwrap().memory_limit_in_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_changes_neither_record_nor_status() {
    let (mut node, id) = node(true).await;
    let recorded = |node: &Node| {
        let spec = node.containerd.container(&id).unwrap().spec.unwrap().value;
        serde_json::from_slice::<serde_json::Value>(&spec).unwrap()["linux"]["resources"].take()
    };
    let before = recorded(&node);
    for method in ["Containers/Update", "Tasks/Update"] {
        for fault in [Fault::Error(Code::Unknown), Fault::Disconnect, Fault::LoseReply] {
            let case = format!("{method}: {fault:?}");
            node.containerd.fault(method, 1, fault);
            let result = node.cri().update_container_resources(update(&id, 96 << 20)).await;
            node.containerd.heal();
            let Err(error) = result else {
                // A write of a record whose reply was lost is repeated.
                assert!(method == "Containers/Update" && !case.contains("Error"), "{case} was swallowed");
                node.cri().update_container_resources(update(&id, 64 << 20)).await.unwrap();
                continue;
            };
            assert!([Code::Unavailable, Code::Internal].contains(&error.code()), "{case}: {error}");
            assert_eq!(limit(&node, &id).await, 64 << 20, "{case}");
            assert_eq!(recorded(&node), before, "{case}: the record says otherwise");
        }
    }
    node.cri().update_container_resources(update(&id, 96 << 20)).await.unwrap();
    node.restart().await;
    assert_eq!(limit(&node, &id).await, 96 << 20);
    node.remove_all().await;
    node.assert_clean("remove").await;
}

/// The error names what could not be restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_restored_is_named_in_the_error() {
    let (node, id) = node(true).await;
    node.containerd.fault("Tasks/Update", 1, Fault::Error(Code::Unknown));
    node.containerd.fault("Containers/Update", 2, Fault::Error(Code::Unknown));
    let error = node.cri().update_container_resources(update(&id, 96 << 20)).await.unwrap_err();
    assert!(error.message().contains("restore the record's spec"), "{error}");
    assert_eq!(limit(&node, &id).await, 64 << 20);
    node.containerd.heal();
    node.remove_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_is_updated_without_a_task() {
    let (node, id) = node(false).await;
    let start = node.containerd.calls().len();
    node.cri().update_container_resources(update(&id, 96 << 20)).await.unwrap();
    let calls = &node.containerd.calls()[start..];
    assert!(calls.iter().all(|call| call.method != "Tasks/Update"), "{calls:?}");
    assert_eq!(limit(&node, &id).await, 96 << 20);
    node.remove_all().await;
}

/// Otherwise the task could have been created from another spec than the one that is reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_an_update_that_runs() {
    let (node, id) = node(false).await;
    let gate = node.containerd.hang("Containers/Update", 1);
    let (mut cri, request) = (node.cri(), update(&id, 96 << 20));
    let updating = tokio::spawn(async move { cri.update_container_resources(request).await });
    gate.arrived().await;
    let (mut cri, request) = (node.cri(), StartContainerRequest { container_id: id.clone() });
    let starting = tokio::spawn(async move { cri.start_container(request).await });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let calls = node.containerd.calls();
    assert!(calls.iter().all(|call| call.method != "Tasks/Create" || call.object != id), "{calls:?}");
    gate.open();
    updating.await.unwrap().unwrap();
    starting.await.unwrap().unwrap();
    assert_eq!(limit(&node, &id).await, 96 << 20);
    node.remove_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_resources_are_remembered_by_the_next_process_too() {
    let (mut node, id) = node(false).await;
    let sandbox = node.sandboxes().await[0].0.clone();
    let request = |bytes| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.clone(),
        overhead: None,
        resources: memory(bytes),
    };
    let shown = async |node: &Node| {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
        let info = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        info["config"]["linux"]["resources"]["memory_limit_in_bytes"].as_i64()
    };
    assert_eq!(shown(&node).await, None);
    node.cri().update_pod_sandbox_resources(request(128 << 20)).await.unwrap();
    node.containerd.fault("Store/Update", 1, Fault::Error(Code::Unknown));
    node.cri().update_pod_sandbox_resources(request(1)).await.unwrap_err();
    node.containerd.heal();
    assert_eq!(shown(&node).await, Some(128 << 20));
    node.restart().await;
    assert_eq!(shown(&node).await, Some(128 << 20));
    let mut unknown = request(1);
    unknown.pod_sandbox_id = id;
    let error = node.cri().update_pod_sandbox_resources(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    node.remove_all().await;
}
