//! No call on one object waits for a call on another (I6), no matter which call to containerd hangs.

use std::time::Duration;

use pontoon::api::v1::*;

use crate::support::server::Node;
use crate::support::{requests, until};

/// Many times as long as a pod's life cycle takes here, also on a busy machine. A life cycle that waits for the call that
/// hangs never ends: that call goes on only afterwards.
const SOON: Duration = Duration::from_secs(20);

/// The life cycle of a pod, from RunPodSandbox to RemovePodSandbox.
async fn pod(node: &Node, name: &str) {
    let sandbox = node.run(&node.pod(name)).await;
    container(node, &sandbox, name).await;
    node.remove(&sandbox).await;
}

/// The life cycle of a container, with all calls that change one.
async fn container(node: &Node, sandbox: &str, name: &str) {
    let id = node.create(&requests::container(sandbox, &node.pod(name), name, &["fake"])).await;
    node.start_container(&id).await;
    let mut cri = node.cri();
    let cmd = ["fake", "exit=0"].map(str::to_owned).to_vec();
    cri.exec_sync(ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 }).await.unwrap();
    let linux = Some(LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() });
    let update = UpdateContainerResourcesRequest { container_id: id.clone(), linux, ..Default::default() };
    cri.update_container_resources(update).await.unwrap();
    cri.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 }).await.unwrap();
    cri.remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
}

/// Runs one life cycle while each call to containerd of another one hangs in turn.
async fn assert_independent(node: &Node, life_cycle: impl AsyncFn(&str)) {
    let before = node.leftovers();
    // The first life cycle fills the server's caches, such as the image's config, so that the second has only its own
    // calls.
    life_cycle("one").await;
    let start = node.containerd.calls().len();
    life_cycle("one").await;
    let steps = node.containerd.steps_since(start);
    assert!(steps.len() > 10, "{steps:?}");
    for (method, nth) in steps {
        let case = format!("{method} number {nth}");
        let gate = node.containerd.hang(&method, nth);
        let other = async {
            gate.arrived().await;
            let other = async {
                life_cycle("other").await;
                node.sandboxes().await;
                node.containers().await;
            };
            tokio::time::timeout(SOON, other).await.unwrap_or_else(|_| panic!("{case} holds up another"));
            gate.open();
        };
        tokio::join!(life_cycle("one"), other);
        node.containerd.heal();
        until(&case, || node.leftovers() == before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_waits_for_another_s_call_that_hangs() {
    let node = Node::start().await;
    assert_independent(&node, async |name| pod(&node, name).await).await;
    node.assert_clean("all lives").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_container_waits_for_its_neighbour_s_call_that_hangs() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    assert_independent(&node, async |name| container(&node, &sandbox, name).await).await;
    node.remove(&sandbox).await;
    node.assert_clean("all lives").await;
}
