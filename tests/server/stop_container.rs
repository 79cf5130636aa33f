//! StopContainer and StopPodSandbox: signal, grace period, SIGKILL; repeated as often as they are called.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::Fault;
use crate::support::server::Node;
use crate::support::until;

const SIGTERM: u32 = 15;

async fn stop(node: &Node, id: &str, timeout: i64) {
    node.cri().stop_container(StopContainerRequest { container_id: id.to_owned(), timeout }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_obeys_sigterm_ends_before_its_grace_period() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let start = Instant::now();
    stop(&node, &id, 600).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    let status = node.status(&id).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 143));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "ignores=term"]).await;
    let start = Instant::now();
    stop(&node, &id, 1).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.status(&id).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_is_repeated_after_ten_seconds() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "ignores=kill"]).await;
    let start = Instant::now();
    stop(&node, &id, 1).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(11) && took < Duration::from_secs(16), "{took:?}");
    let signals = node.containerd.calls().into_iter().filter(|call| call.method == "Tasks/Kill" && call.object == id);
    assert_eq!(signals.count(), 3, "SIGTERM and SIGKILL twice");
    assert_eq!(node.status(&id).await.exit_code, 137);
}

/// runc#2105. The fake's process is in no cgroup, and ends with the second SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn r15_what_a_container_froze_is_thawed_after_a_sigkill() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "ignores=kill"]).await;
    let of_container = format!("kubepods/besteffort/podtest/{id}");
    let root = Path::new("/sys/fs/cgroup");
    let (root, file, frozen, thawed) = if root.join("freezer").exists() {
        (root.join("freezer"), "freezer.state", "FROZEN", "THAWED")
    } else {
        (root.to_owned(), "cgroup.freeze", "1", "0")
    };
    let nested = root.join(&of_container).join("of/its/own");
    std::fs::create_dir_all(&nested).unwrap();
    let _removed = Cgroups(root, Path::new(&of_container).join("of/its/own"));
    std::fs::write(nested.join(file), frozen).unwrap();
    let state = || std::fs::read_to_string(nested.join(file)).unwrap().trim().to_owned();
    assert_eq!(state(), frozen);
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let mut cri = node.cri();
    let stopping = tokio::spawn(async move { cri.stop_container(stop).await });
    until("it is thawed", || state() == thawed).await;
    stopping.await.unwrap().unwrap();

    /// Removes the innermost cgroup first. Cgroups that others use stay.
    struct Cgroups(PathBuf, PathBuf);
    impl Drop for Cgroups {
        fn drop(&mut self) {
            let below = self.1.ancestors().filter(|below| !below.as_os_str().is_empty());
            below.for_each(|below| drop(std::fs::remove_dir(self.0.join(below))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_with_less_grace_shortens_the_first() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "ignores=term"]).await;
    let (mut cri, first) = (node.cri(), StopContainerRequest { container_id: id.clone(), timeout: 600 });
    let first = tokio::spawn(async move { cri.stop_container(first).await });
    until("SIGTERM", || node.containerd.signals(&id) == [SIGTERM]).await;
    stop(&node, &id, 1).await;
    first.await.unwrap().unwrap();
    assert_eq!(node.status(&id).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_grace_is_no_sigterm() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    stop(&node, &id, 0).await;
    assert_eq!(node.status(&id).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_goes_on_when_its_client_leaves() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "ignores=term"]).await;
    let (mut cri, request) = (node.cri(), StopContainerRequest { container_id: id.clone(), timeout: 1 });
    let signalled = until("SIGTERM", || node.containerd.signals(&id) == [SIGTERM]);
    node.call_and_leave(async move { cri.stop_container(request).await }, signalled).await;
    assert_eq!(node.ended(&id).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_remove_may_be_repeated_and_unknown_ids_are_a_success() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "exit=7"]).await;
    let before = node.ended(&id).await;
    stop(&node, &id, 1).await;
    assert_eq!(node.status(&id).await, before, "an exit once observed never changes");
    for _ in 0..2 {
        stop(&node, &id, 1).await;
        let remove = RemoveContainerRequest { container_id: id.clone() };
        node.cri().remove_container(remove).await.unwrap();
        node.remove(&sandbox).await;
    }
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_killed_when_it_is_removed() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "ignores=term"]).await;
    node.cri().remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    assert_eq!(node.containers().await, []);
    assert_eq!(node.containerd.tasks(), [sandbox]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_a_pod_ends_its_containers_and_gives_its_address_back() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "ignores=term"]).await;
    let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.cri().stop_pod_sandbox(request).await.unwrap();
    assert_eq!(node.sandboxes().await, [(sandbox.clone(), PodSandboxState::SandboxNotready)]);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerExited);
    assert_eq!(node.cni.leftovers(), Vec::<String>::new());
    until("no task is left", || node.containerd.tasks().is_empty()).await;
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_of_stop_and_remove_is_made_good_by_a_repeat() {
    let node = Node::start().await;
    let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
    let start = node.containerd.calls().len();
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
    for (method, nth) in node.containerd.steps_since(start) {
        for fault in [Fault::Error(Code::Unknown), Fault::Disconnect, Fault::LoseReply] {
            let case = format!("{method} number {nth}: {fault:?}");
            let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
            node.containerd.fault(&method, nth, fault);
            let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
            let stopped = node.cri().stop_pod_sandbox(stop).await;
            let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
            let removed = node.cri().remove_pod_sandbox(remove).await;
            if removed.is_err() {
                assert_eq!(
                    node.sandboxes().await.len(),
                    1,
                    "{case}: {stopped:?} {removed:?}: what is left has to be listed"
                );
            }
            node.containerd.heal();
            node.remove(&sandbox).await;
            node.assert_clean(&case).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_not_gone_before_its_address_is_given_back() {
    let node = Node::start().await;
    let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
    node.cni.fail("DEL");
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    let error = node.cri().stop_pod_sandbox(stop).await.unwrap_err();
    assert!(error.message().contains("told to fail"), "{error}");
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.cri().remove_pod_sandbox(remove).await.unwrap_err();
    assert_eq!(node.sandboxes().await, [(sandbox.clone(), PodSandboxState::SandboxNotready)]);
    node.cni.heal();
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}
