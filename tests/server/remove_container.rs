//! RemoveContainer names the process that prevents it.

use std::fs;
use std::process::Command;

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::Fault;
use crate::support::server::Node;

/// containerd#4020: a shell on the host, or an agent, has its working directory in the container's root.
#[tokio::test(flavor = "multi_thread")]
async fn r14_a_process_of_the_host_in_the_root_is_named() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "exit=0"]).await;
    node.ended(&id).await;
    let (_, held) = node.run_with_container("held", &["fake"]).await;
    // containerd's shim fails like this when it cannot unmount the root.
    node.containerd.fault("Tasks/Delete", 0, Fault::Error(Code::Unknown));
    let root = node.logs().join(&held).join("rootfs/etc");
    fs::create_dir_all(&root).unwrap();
    let mut holder = Command::new("sleep").arg("1000").current_dir(&root).spawn().unwrap();

    let remove = RemoveContainerRequest { container_id: held.clone() };
    let error = node.cri().remove_container(remove.clone()).await.unwrap_err();
    let expected = format!("is held by process {} (\"sleep\", by its working directory)", holder.id());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains(&expected), "{error}");
    assert!(node.containers().await.iter().any(|(id, _)| *id == held), "it is listed as long as it is there");

    node.containerd.heal();
    node.cri().remove_container(remove).await.unwrap();
    node.remove(&sandbox).await;
    node.remove_all().await;
    node.assert_clean("remove").await;
}
