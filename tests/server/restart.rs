//! `kill -9` of the server at any moment has no effect on pods.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon::api::v1::*;

use crate::support::containerd::Call;
use crate::support::server::Node;
use crate::support::streams::{STDOUT, Session};
use crate::support::{cni, requests, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_knows_what_the_old_one_knew() {
    let mut node = Node::start().await;
    let (sandbox, running) = node.run_with_container("web", &["fake"]).await;
    let pod = node.pod("web");
    let done = node.create(&requests::container(&sandbox, &pod, "done", &["fake", "exit=3"])).await;
    node.start_container(&done).await;
    node.ended(&done).await;
    let created = node.create(&requests::container(&sandbox, &pod, "created", &["fake"])).await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let pod_before = node.cri().pod_sandbox_status(request.clone()).await.unwrap().into_inner().status;
    let mut before = Vec::new();
    for id in [&running, &done, &created] {
        before.push(node.status(id).await);
    }

    node.restart().await;

    let pod_after = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status;
    assert_eq!(pod_before, pod_after);
    assert_eq!(pod_after.unwrap().network.unwrap().ip, cni::ADDRESS);
    for (id, before) in [&running, &done, &created].into_iter().zip(before) {
        assert_eq!(node.status(id).await, before);
    }
    assert_eq!(node.containerd.signals(&running), Vec::<u32>::new(), "nobody was disturbed");
    node.start_container(&created).await;
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_meanwhile_has_its_own_exit_code_and_its_log() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "out=last words\n"]).await;
    // Output that was read from the FIFO and not yet logged is lost when the server is killed.
    let log = node.status(&id).await.log_path;
    until("the words are in the log", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("last words")))
        .await;
    // It ends only when the server is dead, however long a busy machine took to come here.
    node.kill();
    let task = id.clone();
    node.containerd.end(&id, 42);
    assert!(node.containerd.tasks().contains(&task));
    node.spawn().await;
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at > 0);
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    assert_eq!(log.matches("last words").count(), 1, "{log}");
    until("the task is deleted", || !node.containerd.tasks().contains(&task)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_is_followed_to_its_end() {
    let mut node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    node.restart().await;
    node.containerd.end(&id, 5);
    assert_eq!(node.ended(&id).await.exit_code, 5);
    node.containerd.end(&sandbox, 0);
    until("the pause task is deleted", || node.containerd.tasks().is_empty()).await;
    assert_eq!(node.sandboxes().await, [(sandbox, PodSandboxState::SandboxNotready)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kill_cut_short_is_listed_or_gone_and_can_be_removed() {
    let mut node = Node::start().await;
    let pod = node.pod("web");
    let start = node.containerd.calls().len();
    let sandbox = node.run(&pod).await;
    let made = node.containerd.steps_since(start);
    let start = node.containerd.calls().len();
    let container = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    node.start_container(&container).await;
    let begun = node.containerd.steps_since(start);
    node.remove(&sandbox).await;
    node.assert_clean("a pod's whole life").await;

    for (method, nth) in made {
        let gate = node.containerd.hang(&method, nth);
        let (mut cri, request) = (node.cri(), pod.clone());
        let call = tokio::spawn(async move { cri.run_pod_sandbox(request).await });
        gate.arrived().await;
        die_and_remove_all(&mut node, &format!("RunPodSandbox at {method} number {nth}")).await;
        call.await.unwrap().unwrap_err();
    }
    for (method, nth) in begun {
        // Restarted, so that the server reads the image again: these calls are among the steps.
        node.restart().await;
        let sandbox = node.run(&pod).await;
        let request = requests::container(&sandbox, &pod, "main", &["fake"]);
        let gate = node.containerd.hang(&method, nth);
        let mut cri = node.cri();
        let call = tokio::spawn(async move {
            let container_id = cri.create_container(request).await?.into_inner().container_id;
            cri.start_container(StartContainerRequest { container_id }).await
        });
        gate.arrived().await;
        die_and_remove_all(&mut node, &format!("{method} number {nth}")).await;
        call.await.unwrap().unwrap_err();
    }
}

async fn die_and_remove_all(node: &mut Node, case: &str) {
    node.kill();
    node.containerd.heal();
    node.spawn().await;
    node.remove_all().await;
    // The snapshots with which images are read end with their leases.
    node.containerd.collect_garbage();
    node.assert_clean(case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_listed_and_can_be_removed() {
    let mut node = Node::start().await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let (other, _) = node.run_with_container("db", &["fake"]).await;
    node.kill();
    let damage = |value: &mut prost_types::Any| value.value = b"\xff\xff nonsense".to_vec();
    node.containerd.edit_container(&container, |record| record.extensions.values_mut().for_each(damage));
    node.containerd.edit_sandbox(&sandbox, |record| record.extensions.values_mut().for_each(damage));
    node.spawn().await;
    let mut listed: Vec<String> = node.sandboxes().await.into_iter().map(|(id, _)| id).collect();
    let mut expected = vec![sandbox.clone(), other.clone()];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    assert!(node.containers().await.contains(&(container, ContainerState::ContainerUnknown)));
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).await.unwrap().into_inner();
    assert!(status.status.unwrap().created_at > 0, "CRI wants a time of each sandbox");
    assert!(status.containers_statuses[0].created_at > 0);
    node.remove(&sandbox).await;
    node.remove(&other).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_other_clients_are_neither_listed_nor_touched() {
    let mut node = Node::start().await;
    node.kill();
    let foreign = "f".repeat(64);
    node.containerd.edit_container(&foreign, |record| {
        record.labels.insert("io.cri-containerd.kind".to_owned(), "container".to_owned());
    });
    node.containerd.edit_sandbox(&foreign, |_| {});
    node.spawn().await;
    let (sandbox, _) = node.run_with_container("web", &["fake"]).await;
    assert_eq!(node.sandboxes().await.len(), 1);
    node.remove_all().await;
    assert!(!node.containerd.sandboxes().contains(&sandbox));
    assert_eq!((node.containerd.containers(), node.containerd.sandboxes()), (vec![foreign.clone()], vec![foreign]));
}

/// docs/rulings.md 12: the exec id contains the command's deadline.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_former_daemon_live_as_long_as_they_may() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let start = Instant::now();
    let mut calls = Vec::new();
    for (args, timeout) in [(vec!["fake"], 3), (vec!["fake", "exit=0", "after=2000"], 0)] {
        let cmd = args.into_iter().map(str::to_owned).collect();
        let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout };
        let mut cri = node.cri();
        calls.push(tokio::spawn(async move { cri.exec_sync(request).await }));
    }
    // A command with a client at its streams, which disconnects when the daemon is killed.
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["fake".to_owned(), "out=up".to_owned()],
        stdout: true,
        ..ExecRequest::default()
    };
    let url = node.cri().exec(request).await.unwrap().into_inner().url;
    let mut session = Session::open(&url).await;
    session.read(STDOUT, 2).await;
    let execs = |node: &Node| node.leftovers().iter().filter(|left| left.starts_with("containerd has exec")).count();
    let started = |call: &Call| call.method == "Tasks/Start" && call.object.contains('/');
    until("all run", || node.containerd.calls().into_iter().filter(started).count() == 3).await;

    node.restart().await;

    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    until("the one whose client has gone is ended", || execs(&node) <= 2).await;
    assert!(start.elapsed() > Duration::from_secs(2) || execs(&node) == 2, "the others live on");
    until("the others have ended too", || node.leftovers() == before).await;
    assert!(start.elapsed() > Duration::from_secs(2));
    let kills = node.containerd.calls().into_iter().filter(|call| call.method == "Tasks/Kill").count();
    assert_eq!(kills, 2, "the one without a timeout came to its own end");
}

/// The daemon is killed between creating a command and starting it. A command that never ran never exits.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_a_former_daemon_never_started_is_deleted() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    let start = node.containerd.hang("Tasks/Start", 1);
    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["fake".to_owned()], timeout: 0 };
    let mut cri = node.cri();
    let call = tokio::spawn(async move { cri.exec_sync(request).await });
    start.arrived().await;
    node.restart().await;
    assert!(call.await.unwrap().is_err());
    until("it is deleted", || node.leftovers() == before).await;
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
}

/// Operations that have not ended 30 s after SIGTERM are left to the next daemon, as is an unfinished line of output
/// (F6).
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_operations_no_longer_than_thirty_seconds() {
    let mut node = Node::start().await;
    let before = node.leftovers();
    let (_, id) = node.run_with_container("asks", &["fake", "out=who? "]).await;
    let log = node.status(&id).await.log_path;
    let create = node.containerd.hang("Tasks/Create", 1);
    let (mut cri, pod) = (node.cri(), node.pod("web"));
    let run = tokio::spawn(async move { cri.run_pod_sandbox(pod).await });
    create.arrived().await;
    let start = Instant::now();
    node.terminate().await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(35), "{took:?}");
    assert!(run.await.unwrap().is_err());
    assert!(node.log().contains("not all operations ended within 30s"), "{}", node.log());
    let unfinished = node.log().lines().find(|line| line.contains("the operation has not ended")).map(str::to_owned);
    let unfinished = unfinished.unwrap_or_else(|| panic!("{}", node.log_tail()));
    for part in [" method=RunPodSandbox stage=", "task_create", " ms=", " pod=default/web sandbox="] {
        assert!(unfinished.contains(part), "{unfinished}");
    }
    assert!(node.log().lines().any(|line| line.ends_with(": stopped")), "{}", node.log_tail());
    assert!(std::fs::read_to_string(&log).unwrap().ends_with(" stdout P who? \n"));

    node.containerd.heal();
    node.spawn().await;
    node.remove_all().await;
    until("nothing is left of it", || node.leftovers() == before).await;
}

/// Many daemons read their configuration again at SIGHUP. Its default action would kill the server without a drain.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_is_ignored_and_the_log_says_to_restart() {
    let node = Node::start().await;
    for count in 1..=2 {
        node.signal(Signal::SIGHUP);
        let told = || node.log().matches("SIGHUP is ignored: a restart of pontoon applies").count();
        until("it is told once", || told() == count).await;
        assert!(node.is_ready().await);
    }
}
