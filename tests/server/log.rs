//! The log: its lines can be followed by pod, sandbox and container, and the end of each operation is in it.

use pontoon::api::v1::*;

use crate::support::server::Node;
use crate::support::streams::Session;
use crate::support::{requests, until};

/// The lines that have all of these parts.
fn lines(node: &Node, parts: &[&str]) -> Vec<String> {
    node.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
}

/// The only line that has all of these parts.
fn line(node: &Node, parts: &[&str]) -> String {
    let mut found = lines(node, parts);
    assert_eq!(found.len(), 1, "{parts:?}: {found:#?}");
    found.remove(0)
}

fn exec_sync(id: &str, cmd: &[&str]) -> ExecSyncRequest {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 }
}

/// Makes each call about a container and its sandbox with ids of 12 characters, and ends both.
async fn live(node: &Node, sandbox: &str, container: &str) {
    let (mut cri, short) = (node.cri(), container[..12].to_owned());
    cri.exec_sync(exec_sync(&short, &["fake", "exit=4"])).await.unwrap();
    cri.reopen_container_log(ReopenContainerLogRequest { container_id: short.clone() }).await.unwrap();
    cri.stop_container(StopContainerRequest { container_id: short.clone(), timeout: 0 }).await.unwrap();
    cri.remove_container(RemoveContainerRequest { container_id: short }).await.unwrap();
    let pod_sandbox_id = sandbox[..12].to_owned();
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_pod_has_its_keys() {
    let mut node = Node::start().await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let of_pod = format!(" pod=default/web sandbox={sandbox}");
    let of_container = format!("{of_pod} container={container}");
    line(&node, &["method=RunPodSandbox result=OK ms=", &of_pod]);
    line(&node, &["method=CreateContainer result=OK ms=", &of_container, " name=main"]);
    line(&node, &["method=StartContainer result=OK ms=", &of_container]);
    // Another daemon has the keys too.
    node.restart().await;
    live(&node, &sandbox, &container).await;
    line(&node, &[" DEBUG ", "method=ExecSync result=OK ms=", &of_container]);
    line(&node, &[" DEBUG ", "command ended method=ExecSync code=4 ms=", &of_container]);
    for method in ["ReopenContainerLog", "StopContainer", "RemoveContainer"] {
        line(&node, &[" INFO ", &format!("method={method} result=OK ms="), &of_container]);
    }
    for method in ["StopPodSandbox", "RemovePodSandbox"] {
        line(&node, &[" INFO ", &format!("method={method} result=OK ms="), &of_pod]);
    }
    line(&node, &["container ended code=", &of_container]);
    line(&node, &["pause process ended code=", &of_pod]);
    for operation in [" operation=ADD ", " operation=DEL "] {
        assert_ne!(lines(&node, &["cni plugin ran", operation, " ms=", &of_pod]), Vec::<String>::new(), "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_call_that_fails_has_the_keys_that_exist() {
    let node = Node::start().await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let of_pod = format!(" pod=default/web sandbox={sandbox}");
    let mut cri = node.cri();
    cri.stop_container(StopContainerRequest { container_id: "nobody".to_owned(), timeout: 0 }).await.unwrap();
    line(&node, &["method=StopContainer result=OK ms=", " container=nobody"]);
    cri.start_container(StartContainerRequest { container_id: container[..12].to_owned() }).await.unwrap_err();
    line(&node, &[" WARN ", "method=StartContainer result=FailedPrecondition", &of_pod, &container]);
    cri.exec_sync(exec_sync("nobody", &["fake"])).await.unwrap_err();
    line(&node, &[" WARN ", "method=ExecSync result=NotFound", " container=nobody"]);
    node.cni.fail("ADD");
    cri.run_pod_sandbox(node.pod("other")).await.unwrap_err();
    let failed = line(&node, &[" WARN ", "method=RunPodSandbox", " pod=default/other sandbox="]);
    assert!(!failed.contains(&sandbox), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_operation_whose_client_has_left_is_logged() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let container = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    let keys = format!(" pod=default/web sandbox={sandbox} container={container}");
    let gate = node.containerd.hang("Tasks/Create", 1);
    let (mut cri, request) = (node.cri(), StartContainerRequest { container_id: container[..12].to_owned() });
    node.call_and_leave(async move { cri.start_container(request).await }, gate.arrived()).await;
    line(&node, &["method=StartContainer result=\"client left\" stage=task_create ms=", &keys]);
    assert_eq!(lines(&node, &["after its client had left"]), Vec::<String>::new());
    gate.open();
    until("the end is logged", || !lines(&node, &["after its client had left"]).is_empty()).await;
    line(&node, &["the operation ended after its client had left method=StartContainer result=OK ms=", &keys]);
}

/// A caller that joined the operation of another knows as much of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_operation_is_logged_once_however_many_clients_have_left() {
    let node = Node::start().await;
    let gate = node.containerd.hang("Tasks/Create", 1);
    node.cni.fail("ADD");
    for _ in 0..2 {
        let (mut cri, pod) = (node.cri(), node.pod("web"));
        let joined = async {
            gate.arrived().await;
            // The second call gives no other sign that it has joined.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        };
        node.call_and_leave(async move { cri.run_pod_sandbox(pod).await }, joined).await;
    }
    let parts = ["method=RunPodSandbox result=\"client left\" stage=", "task_create ms=", " pod=default/web sandbox="];
    let left = lines(&node, &parts);
    assert_eq!(left.len(), 2, "{}", node.log_tail());
    gate.open();
    until("the end is logged", || !lines(&node, &["after its client had left"]).is_empty()).await;
    let end = line(&node, &[" WARN ", "after its client had left method=RunPodSandbox result=failed error="]);
    let (_, keys) = left[0].split_once(" pod=").unwrap();
    assert!(end.contains("told to fail") && end.ends_with(keys), "{end}\n{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_exec_is_logged_with_its_exit_code() {
    let node = Node::start().await;
    let (mut sessions, mut of_pods) = (Vec::new(), Vec::new());
    for (pod, exit) in [("web", "exit=9"), ("other", "exit=8")] {
        let (sandbox, container) = node.run_with_container(pod, &["fake"]).await;
        let cmd = ["fake", exit, "after=500"].iter().map(ToString::to_string).collect();
        let container_id = container[..12].to_owned();
        let request = ExecRequest { container_id, cmd, stdout: true, ..ExecRequest::default() };
        let url = node.cri().exec(request).await.unwrap().into_inner().url;
        let keys = format!(" pod=default/{pod} sandbox={sandbox} container={container}");
        line(&node, &[" INFO ", "method=Exec result=OK ms=", &keys]);
        sessions.push(Session::open(&url).await);
        of_pods.push((exit, keys));
    }
    for session in sessions {
        session.finish().await;
    }
    until("both ends are logged", || lines(&node, &["command ended"]).len() == 2).await;
    for (exit, keys) in of_pods {
        let code = exit.replace("exit", "code");
        line(&node, &[" INFO ", &format!("command ended method=Exec {code} ms="), &keys]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_runs_and_that_it_has_stopped() {
    let mut node = Node::start().await;
    node.run_with_container("web", &["fake"]).await;
    node.terminate().await;
    let log = node.log();
    let first = log.lines().next().unwrap();
    assert!(first.contains(&format!("starting version={} config=/", env!("CARGO_PKG_VERSION"))), "{first}");
    assert!(first.ends_with("/config.toml"), "{first}");
    assert!(log.lines().last().unwrap().ends_with(": stopped"), "{}", node.log_tail());
    // The tests use level debug.
    assert_ne!(lines(&node, &[" DEBUG ", " pontoon::"]), Vec::<String>::new());
    for library in [" h2::", " hyper_util::", " tower::"] {
        assert_eq!(lines(&node, &[library]), Vec::<String>::new());
    }
}
