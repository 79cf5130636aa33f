//! One instance serves a containerd namespace, whatever sockets and directories the instances have.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};

use pontoon::api::v1::ContainerState;

use crate::support::server::Node;
use crate::support::{PATIENCE, until};

/// An instance that runs until the end of the test, also if the test fails.
struct Second(Child);

impl Second {
    /// Starts it, and waits until it serves CRI.
    async fn start(node: &Node, edit: impl FnOnce(String) -> String) -> Self {
        let path = node.logs().join("second.log");
        let mut command = node.second_instance(edit);
        let child = command.stdout(Stdio::null()).stderr(File::create(&path).unwrap()).spawn();
        let mut second = Self(child.unwrap());
        let log = || std::fs::read_to_string(&path).unwrap();
        until("the second instance serves CRI", || {
            assert!(second.0.try_wait().unwrap().is_none(), "it ended: {}", log());
            log().contains("serving CRI v1")
        })
        .await;
        second
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a second instance that must refuse to start. Returns the reason.
async fn refusal(node: &Node, edit: impl FnOnce(String) -> String) -> String {
    let mut command = tokio::process::Command::from(node.second_instance(edit));
    let ended = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let ended = ended.expect("it has started").unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    String::from_utf8(ended.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
}

fn mutating_calls(node: &Node) -> usize {
    node.containerd.calls().iter().filter(|call| call.is_mutating()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_is_refused_and_takes_nothing() {
    let node = Node::start().await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let own = node.containerd.socket().display().to_string();
    let link = node.logs().join("link.sock");
    symlink(node.containerd.socket(), &link).unwrap();
    let before = mutating_calls(&node);
    for address in [own.clone(), link.display().to_string()] {
        let said = refusal(&node, |config| config.replace(&own, &address)).await;
        let expected = format!(
            "pontoon: another pontoon (pid {}) serves the namespace k8s.io of the containerd at {address}; \
             two instances would act on each other's pods",
            node.pid()
        );
        assert_eq!(said, expected);
    }
    assert_eq!(mutating_calls(&node), before);
    assert_eq!(node.status(&container).await.state(), ContainerState::ContainerRunning);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// The killed instance leaves a CNI plugin that runs on: a child process must not keep the lock.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_next_instance_starts_at_once() {
    let mut node = Node::start().await;
    node.cni.hang("ADD");
    let (mut cri, request) = (node.cri(), node.pod("web"));
    let adding = tokio::spawn(async move { cri.run_pod_sandbox(request).await });
    until("ADD runs", || node.cni.calls().len() == 1).await;
    node.kill();
    adding.await.unwrap().unwrap_err();
    // It would be refused after a second, and the plugin hangs for ten.
    let _second = Second::start(&node, |config| config).await;
    node.cni.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_different_namespaces_run_together() {
    let node = Node::start().await;
    let namespace = "[containerd]\nnamespace = \"elsewhere\"\n";
    let _second = Second::start(&node, |config| config.replace("[containerd]\n", namespace)).await;
    assert!(node.is_ready().await, "the first one serves on");
}
