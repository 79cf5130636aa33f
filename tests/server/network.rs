//! Pods' networks: which attachments are deleted, what a kill during ADD leaves, and which pods wait for each other.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use pontoon::api::v1::*;

use crate::support::server::Node;
use crate::support::{cni, until};

/// Starts the server again, and waits until it has checked the CNI cache, which it logs. The log has the lines of earlier
/// servers too.
async fn restart_and_look_through_the_cache(node: &mut Node) {
    let before = node.log().len();
    node.restart().await;
    until("it has looked through the cache", || {
        node.log().get(before..).is_some_and(|new| new.contains("network attachment"))
    })
    .await;
}

async fn address(node: &Node, id: &str) -> String {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    status.network.map(|network| network.ip).unwrap_or_default()
}

fn unpin(path: &Path) {
    umount2(path, MntFlags::MNT_DETACH).unwrap();
}

/// A second instance has a containerd of its own and the same `cni.cache_dir`.
#[tokio::test(flavor = "multi_thread")]
async fn f2_the_networks_of_another_instance_s_pods_are_left_alone() {
    let mut node = Node::start().await;
    let id = node.run(&node.pod("web")).await;
    let mut other = Node::start().await;
    let [own, shared] = [&other.cni, &node.cni].map(|cni| cni.cache_dir().display().to_string());
    other.configure(|config| config.replace(&own, &shared));
    restart_and_look_through_the_cache(&mut other).await;
    assert_eq!(other.cni.calls(), [], "the pod lives");

    // The same when the namespace is not pinned: the cache entry says which instance it belongs to.
    unpin(&node.netns(&id));
    restart_and_look_through_the_cache(&mut other).await;
    assert_eq!(other.cni.calls(), []);

    node.restart().await;
    assert_eq!(address(&node, &id).await, cni::ADDRESS);
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

/// `containerd.namespace` was changed and changed back, and then containerd lost its records. The pod's processes run
/// all the time: only a reboot, which unmounts the namespace, ends them.
#[tokio::test(flavor = "multi_thread")]
async fn f2_an_attachment_is_given_back_once_its_namespace_is_gone_and_no_sooner() {
    const NAMESPACE: &str = "namespace = \"elsewhere\"\n";
    let mut node = Node::start().await;
    let id = node.run(&node.pod("web")).await;
    let added = vec![("ADD".to_owned(), id.clone())];
    node.kill();
    node.containerd.delete_sandbox(&id);
    node.containerd.delete_container(&id);
    node.configure(|config| config.replace("[containerd]\n", &format!("[containerd]\n{NAMESPACE}")));
    restart_and_look_through_the_cache(&mut node).await;
    assert_eq!(node.cni.calls(), added, "in another namespace");

    node.configure(|config| config.replace(NAMESPACE, ""));
    node.restart().await;
    until("it says why", || node.log().contains("its network namespace is still pinned")).await;
    assert_eq!(node.cni.calls(), added, "without a record");

    unpin(&node.netns(&id));
    node.restart().await;
    until("the address is given back", || node.cni.calls().last() == Some(&("DEL".to_owned(), id.clone()))).await;
    until("the entry is gone", || node.cni.leftovers().is_empty()).await;
}

/// The pause process runs, and half of the plugin chain was never run.
#[tokio::test(flavor = "multi_thread")]
async fn f4_a_kill_within_add_leaves_a_sandbox_that_is_not_ready() {
    let mut node = Node::start().await;
    node.cni.hang("ADD");
    let (mut cri, mut pod) = (node.cri(), node.pod("web"));
    let request = pod.clone();
    let call = tokio::spawn(async move { cri.run_pod_sandbox(request).await });
    until("ADD", || !node.cni.calls().is_empty()).await;
    until("the pause task starts", || node.containerd.calls().iter().any(|call| call.method == "Tasks/Start")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id = node.containerd.sandboxes().remove(0);
    // What the plugin before the hanging one has done.
    make_interface(&node.netns(&id));
    node.restart().await;
    assert!(call.await.unwrap().is_err());
    assert_eq!(node.sandboxes().await, [(id.clone(), PodSandboxState::SandboxNotready)]);

    // As kubelet does: it creates the next attempt, and removes the one before.
    node.cni.heal();
    pod.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt += 1;
    let next = node.run(&pod).await;
    assert_eq!(address(&node, &next).await, cni::ADDRESS);
    for id in [id, next] {
        node.remove(&id).await;
    }
    node.assert_clean("remove").await;
}

/// The last pod waits for a slot behind the others, so its plugins have not started.
#[tokio::test(flavor = "multi_thread")]
async fn f4_a_kill_before_add_leaves_a_sandbox_that_is_not_ready() {
    let mut node = Node::start().await;
    node.cni.hang_stuck_pods();
    let mut calls = Vec::new();
    for number in 0..17 {
        let (mut cri, pod) = (node.cri(), node.pod(&format!("stuck-{number}")));
        calls.push(tokio::spawn(async move { cri.run_pod_sandbox(pod).await }));
    }
    let started = |node: &Node| node.containerd.calls().iter().filter(|call| call.method == "Tasks/Start").count();
    until("all pause tasks start", || started(&node) == 17).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.restart().await;
    node.cni.heal();
    let listed = node.sandboxes().await;
    assert_eq!(listed.len(), 17);
    assert!(listed.iter().all(|(_, state)| *state == PodSandboxState::SandboxNotready), "{listed:?}");
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    node.remove_all().await;
    node.assert_clean("remove").await;
}

fn make_interface(netns: &Path) {
    let script = "ip link add eth0 type bridge && ip addr add 10.9.8.7/24 dev eth0 && ip link set eth0 up";
    let net = format!("--net={}", netns.display());
    assert!(Command::new("nsenter").args([&net, "sh", "-c", script]).status().unwrap().success());
}

/// docs/rulings.md 13. The cache entry is written before the pause task is created, so if it is missing it was lost
/// later.
#[tokio::test(flavor = "multi_thread")]
async fn f4_a_cache_file_that_was_lost_later_is_read_from_the_interface() {
    let mut node = Node::start().await;
    let [id, bare] = [node.run(&node.pod("web")).await, node.run(&node.pod("bare")).await];
    make_interface(&node.netns(&id));
    node.kill();
    std::fs::remove_dir_all(node.cni.cache_dir()).unwrap();
    node.spawn().await;
    let states: std::collections::HashMap<_, _> = node.sandboxes().await.into_iter().collect();
    assert_eq!(states[&id], PodSandboxState::SandboxReady);
    assert_eq!(address(&node, &id).await, "10.9.8.7");
    assert_eq!(states[&bare], PodSandboxState::SandboxNotready, "it has no interface either");
    node.remove_all().await;
    node.assert_clean("remove").await;
}

/// multus-cni#1344.
#[tokio::test(flavor = "multi_thread")]
async fn f14_r13_pods_whose_network_hangs_keep_no_other_pod_from_its_own() {
    let node = Node::start().await;
    node.cni.hang_stuck_pods();
    let mut stuck = Vec::new();
    for number in 0..16 {
        let (mut cri, pod) = (node.cri(), node.pod(&format!("stuck-{number}")));
        stuck.push(tokio::spawn(async move { cri.run_pod_sandbox(pod).await }));
    }
    until("all of them hang", || node.cni.calls().len() == 16).await;
    let start = Instant::now();
    node.run(&node.pod("well")).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    until("it says which hang", || node.log().matches("plugin chain is still running").count() == 16).await;
    assert!(took < Duration::from_millis(1500) || node.log().contains("waits for a cni slot"), "{took:?}");
    // The pods that have hung for too long no longer hold slots, so the next pod runs at once.
    let start = Instant::now();
    node.run(&node.pod("also-well")).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    node.cni.heal();
    for run in stuck {
        run.await.unwrap().unwrap();
    }
    node.remove_all().await;
    node.assert_clean("remove").await;
}
