//! The systemd cgroup driver: what Pontoon reports to kubelet, and what it passes to the runtime (docs/adr/0010).

use pontoon::api::v1::*;
use serde_json::Value;

use crate::support::requests;
use crate::support::server::Node;

const SYSTEMD: &str = "[runtimes.runc]\n[runtimes.runc.options]\nSystemdCgroup = true\n";
/// The cgroup parent that kubelet's systemd driver sends for a burstable pod.
const SLICE: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podtest.slice";

async fn driver(node: &Node) -> CgroupDriver {
    let reply = node.cri().runtime_config(RuntimeConfigRequest::default()).await.unwrap().into_inner();
    reply.linux.unwrap().cgroup_driver()
}

/// `linux.cgroupsPath` of the spec in containerd's record, and whether runc's options select systemd.
fn cgroup_of(node: &Node, id: &str) -> (String, bool) {
    let record = node.containerd.container(id).unwrap();
    let spec: Value = serde_json::from_slice(&record.spec.unwrap().value).unwrap();
    let options = record.runtime.unwrap().options.unwrap();
    assert_eq!(options.type_url, "containerd.runc.v1.Options");
    // Field 9 of runc's options, a varint. No other field is set here.
    (spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned(), options.value == [0x48, 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_gets_the_driver_of_the_handlers() {
    assert_eq!(driver(&Node::start().await).await, CgroupDriver::Cgroupfs);
    assert_eq!(driver(&Node::start_with(SYSTEMD).await).await, CgroupDriver::Systemd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_processes_are_scopes_of_its_slice() {
    let node = Node::start_with(SYSTEMD).await;
    let mut pod = node.pod("web");
    pod.config.as_mut().unwrap().linux.as_mut().unwrap().cgroup_parent = SLICE.to_owned();
    let sandbox = node.run(&pod).await;
    let container = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    for id in [&sandbox, &container] {
        assert_eq!(cgroup_of(&node, id), (format!("kubepods-burstable-podtest.slice:cri-containerd:{id}"), true));
    }
    node.remove(&sandbox).await;
    node.assert_clean("a pod in a slice").await;
}
