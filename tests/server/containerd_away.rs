//! containerd goes away and comes back. Reads are served, changes fail as unavailable, and what happened in the
//! meantime is found out afterwards.

use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::containerd::{Fault, IMAGE};
use crate::support::server::Node;
use crate::support::{PATIENCE, requests, until};

async fn runtime_ready(node: &Node) -> bool {
    let status = node.cri().status(StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    status
        .conditions
        .iter()
        .find(|condition| condition.r#type == "RuntimeReady")
        .is_some_and(|condition| condition.status)
}

async fn until_ready(node: &Node, wanted: bool) {
    let deadline = Instant::now() + PATIENCE;
    while runtime_ready(node).await != wanted {
        assert!(Instant::now() < deadline, "RuntimeReady does not become {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_served_and_changes_are_unavailable_within_seconds() {
    let mut node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    node.containerd.stop();
    until_ready(&node, false).await;
    assert_eq!(node.sandboxes().await, [(sandbox.clone(), PodSandboxState::SandboxReady)]);
    assert_eq!(node.containers().await, [(id.clone(), ContainerState::ContainerRunning)]);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);

    let pod = node.pod("web");
    let (mut run, mut create, mut stop) = (node.cri(), node.cri(), node.cri());
    let start = Instant::now();
    let (ran, created, stopped) = tokio::join!(
        run.run_pod_sandbox(node.pod("db")),
        create.create_container(requests::container(&sandbox, &pod, "side", &["fake"])),
        stop.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 }),
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    let codes = [ran.unwrap_err().code(), created.unwrap_err().code(), stopped.unwrap_err().code()];
    assert_eq!(codes, [Code::Unavailable; 3]);

    node.containerd.serve();
    until_ready(&node, true).await;
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// Without the address, an error such as "No such file or directory" would be taken for one about the container.
#[tokio::test(flavor = "multi_thread")]
async fn errors_say_that_containerd_does_not_answer_and_the_log_says_it_once() {
    let mut node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    node.containerd.stop();
    until_ready(&node, false).await;
    let away = format!("containerd does not answer at {}: ", node.containerd.socket().display());
    let waited = |verb: &str| format!("{away}{verb} waited 5s for it, and has changed nothing");
    for _ in 0..2 {
        let (mut run, mut stop, mut images, mut exec) = (node.cri(), node.cri(), node.images(), node.cri());
        let image = Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() });
        let command = ExecSyncRequest { container_id: id.clone(), cmd: vec!["fake".to_owned()], timeout: 5 };
        let (ran, stopped, pulled, executed) = tokio::join!(
            run.run_pod_sandbox(node.pod("db")),
            stop.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 }),
            images.pull_image(PullImageRequest { image, ..PullImageRequest::default() }),
            exec.exec_sync(command),
        );
        let errors = [ran.unwrap_err(), stopped.unwrap_err(), pulled.unwrap_err(), executed.unwrap_err()];
        assert_eq!(errors.each_ref().map(|error| error.code()), [Code::Unavailable; 4], "{errors:?}");
        let [ran, stopped, pulled, executed] = errors;
        assert_eq!(ran.message(), waited("RunPodSandbox"));
        assert_eq!(stopped.message(), waited("StopContainer"));
        assert_eq!(pulled.message(), waited("PullImage"));
        assert!(executed.message().starts_with(&format!("exec in task {id}: {away}")), "{executed}");
    }
    node.containerd.serve();
    until_ready(&node, true).await;
    let log = node.log();
    let lines = |level: &str| {
        let lines = log.lines().filter(|line| line.contains(level) && line.contains("containerd"));
        lines.filter(|line| line.contains("answer")).collect::<Vec<_>>()
    };
    let (warnings, news) = (lines("WARN"), lines("INFO"));
    assert!(warnings.len() == 1 && warnings[0].contains("containerd does not answer"), "{warnings:#?}");
    assert!(news.len() == 1 && news[0].contains("containerd answers again"), "{news:#?}");
    assert_eq!(lines("ERROR"), [""; 0]);
    // The failed calls are logged below the level of a warning, with their keys.
    let keys = format!(" pod=default/web sandbox={sandbox} container={id}");
    for method in ["StopContainer", "ExecSync"] {
        let refused = format!("method={method} result=Unavailable error=");
        let refused =
            lines("DEBUG").into_iter().filter(|line| line.contains(&refused) && line.ends_with(&keys)).count();
        assert_eq!(refused, 2, "{method}: {}", node.log_tail());
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_happened_meanwhile_is_found_out() {
    let mut node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "out=bye\n"]).await;
    node.containerd.stop();
    until_ready(&node, false).await;
    node.containerd.end(&id, 6);
    node.containerd.serve();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
    until("the task is deleted", || node.containerd.tasks() == [sandbox.clone()]).await;
    let record = node.containerd.container(&id).unwrap();
    assert!(record.extensions.keys().any(|key| key.ends_with("exit")), "the exit is written before the task goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_died_meanwhile_is_not_ready() {
    let mut node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    node.containerd.stop();
    node.containerd.end(&sandbox, 137);
    node.containerd.serve();
    until("the pause task is deleted", || node.containerd.tasks().is_empty()).await;
    assert_eq!(node.sandboxes().await, [(sandbox.clone(), PodSandboxState::SandboxNotready)]);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_containerd_that_restarts() {
    let mut node = Node::start().await;
    node.containerd.stop();
    until_ready(&node, false).await;
    let (mut cri, pod) = (node.cri(), node.pod("web"));
    let call = tokio::spawn(async move { cri.run_pod_sandbox(pod).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.containerd.serve();
    let id = call.await.unwrap().unwrap().into_inner().pod_sandbox_id;
    node.remove(&id).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_dies_in_the_middle_of_a_run_leaves_nothing_that_cannot_be_removed() {
    let mut node = Node::start().await;
    let pod = node.pod("web");
    for method in ["Store/Create", "Containers/Create", "Tasks/Create", "Tasks/Start"] {
        let gate = node.containerd.hang(method, 1);
        let (mut cri, request) = (node.cri(), pod.clone());
        let call = tokio::spawn(async move { cri.run_pod_sandbox(request).await });
        gate.arrived().await;
        node.containerd.stop();
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.containerd.heal();
        node.containerd.serve();
        let result = call.await.unwrap();
        if method == "Tasks/Start" {
            // The task was created. It is found again and started.
            result.unwrap();
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.code(), Code::Unavailable, "{method}: {error}");
        }
        until_ready(&node, true).await;
        node.remove_all().await;
        node.assert_clean(method).await;
    }
}

/// A hung containerd accepts every call and answers none.
#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_for_a_containerd_that_hangs() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let _gate = node.containerd.hang("*", 0);
    let start = Instant::now();
    assert_eq!(node.sandboxes().await.len(), 1);
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
    runtime_ready(&node).await;
    node.cri().version(VersionRequest::default()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    node.containerd.heal();
    node.remove(&sandbox).await;
}

async fn runtime_condition(node: &Node) -> RuntimeCondition {
    let status = node.cri().status(StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    status.conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady").unwrap()
}

/// As under SIGSTOP: connections stay open.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_containerd_that_hangs_is_reported_within_ten_seconds_until_it_responds() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let _gate = node.containerd.hang("*", 0);
    let start = Instant::now();
    until_ready(&node, false).await;
    assert!(start.elapsed() < Duration::from_secs(10));
    let condition = runtime_condition(&node).await;
    assert_eq!(condition.reason, "ContainerdSilent");
    let seconds = condition.message.strip_prefix("no answer for ").and_then(|rest| rest.split_once(" s from"));
    assert!(seconds.is_some_and(|(number, _)| number.parse::<u64>().is_ok()), "{condition:?}");
    // Calls behave as when containerd is away.
    let start = Instant::now();
    let (mut run, mut stop) = (node.cri(), node.cri());
    let (ran, stopped) = tokio::join!(
        run.run_pod_sandbox(node.pod("db")),
        stop.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 }),
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!([ran.unwrap_err().code(), stopped.unwrap_err().code()], [Code::Unavailable; 2]);
    node.containerd.heal();
    until_ready(&node, true).await;
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
    assert!(node.containerd.signals(&id).is_empty());
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// A read reports the spec of the running container, and does not wait for containerd.
#[tokio::test(flavor = "multi_thread")]
async fn f13_verbose_statuses_say_what_runs_and_do_not_wait_for_a_containerd_that_hangs() {
    let node = Node::start().await;
    let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
    let verbose = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    // The spec in the record counts, not the one that its config would produce now.
    node.containerd.edit_container(&sandbox, |record| {
        record.spec.as_mut().unwrap().value = br#"{"hostname":"what-runs"}"#.to_vec();
    });
    let spec = async || {
        let status = node.cri().pod_sandbox_status(verbose.clone()).await.unwrap().into_inner();
        let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
        info["runtimeSpec"].clone()
    };
    assert_eq!(spec().await["hostname"], "what-runs");
    let _gate = node.containerd.hang("*", 0);
    let start = Instant::now();
    assert!(spec().await.is_null());
    let image = Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() });
    let image = ImageStatusRequest { image, verbose: true };
    assert!(node.images().image_status(image).await.unwrap().into_inner().image.is_some());
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    node.containerd.heal();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_is_written_however_often_the_write_fails() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    node.containerd.fault("Containers/Update", 1, Fault::Disconnect);
    node.containerd.fault("Containers/Update", 2, Fault::Error(Code::Unavailable));
    node.containerd.end(&id, 8);
    assert_eq!(node.ended(&id).await.exit_code, 8);
    assert!(node.containerd.container(&id).unwrap().extensions.keys().any(|key| key.ends_with("exit")));
}
