//! One pod cannot use up what all pods share: slots for commands, their queue, and slots for attached clients.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pontoon::api::v1::*;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::server::{Client, Node};
use crate::support::streams::{STDOUT, Session};
use crate::support::{PATIENCE, requests, until};

/// How much longer a probe may take beside the attack: far less than the timeout of a kubelet probe.
const LIMIT: Duration = Duration::from_secs(1);

async fn exec_sync(mut cri: Client, id: &str, cmd: &[&str], timeout: i64) -> Result<i32, Status> {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    cri.exec_sync(request).await.map(|reply| reply.into_inner().exit_code)
}

async fn exec_url(mut cri: Client, id: &str) -> Result<String, Status> {
    let cmd = vec!["fake".to_owned(), "out=up".to_owned()];
    let request = ExecRequest { container_id: id.to_owned(), cmd, stdout: true, ..ExecRequest::default() };
    cri.exec(request).await.map(|reply| reply.into_inner().url)
}

/// A command that runs until its client disconnects.
async fn exec(node: &Node, id: &str) -> Session {
    let mut session = Session::open(&exec_url(node.cri(), id).await.unwrap()).await;
    session.read(STDOUT, 2).await;
    session
}

/// The number of commands that were created, in one container or (with an empty id) in all.
fn made(node: &Node, id: &str) -> usize {
    let calls = node.containerd.calls();
    calls.iter().filter(|call| call.method == "Tasks/Exec" && call.object.starts_with(id)).count()
}

/// The longest of some probes that are made at once.
async fn slowest(cri: &Client, id: &str, at_once: usize) -> Duration {
    let probes = (0..at_once).map(|_| async {
        let start = Instant::now();
        assert_eq!(exec_sync(cri.clone(), id, &["fake", "exit=3"], 5).await.unwrap(), 3);
        start.elapsed()
    });
    join_all(probes).await.into_iter().max().unwrap()
}

/// Waits until the server has this number of ExecSync calls whose commands wait for their turn. They are in no stage.
async fn until_waiting(node: &Node, count: usize) {
    const NAME: &str = "pontoon_operations_in_flight{operation=\"ExecSync\",stage=\"none\"} ";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = node.metrics().await;
        let waiting = page.lines().find_map(|line| line.strip_prefix(NAME)).unwrap_or("0").to_owned();
        if waiting == count.to_string() {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} commands wait, not {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A pod with `count` running containers.
async fn pod_of(node: &Node, name: &str, count: usize) -> Vec<String> {
    let pod = node.pod(name);
    let sandbox = node.run(&pod).await;
    let mut ids = Vec::new();
    for number in 0..count {
        let id = node.create(&requests::container(&sandbox, &pod, &format!("c{number}"), &["fake"])).await;
        node.start_container(&id).await;
        ids.push(id);
    }
    ids
}

/// With the default limits, on one connection, as with kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn t6_hanging_commands_of_one_pod_hold_up_no_other_pods_probes() {
    let node = Node::start().await;
    let attacker = pod_of(&node, "attacker", 5).await;
    let (_, victim) = node.run_with_container("victim", &["fake"]).await;
    let before = node.leftovers();
    let cri = node.patient_cri();
    // A busy machine is slow without an attack too.
    let limit = LIMIT + slowest(&cri, &victim, 40).await;
    let of_attacker = || made(&node, "") - made(&node, &victim);
    let mut hanging = JoinSet::new();
    for number in 0..300 {
        let (cri, id) = (cri.clone(), attacker[number % attacker.len()].clone());
        hanging.spawn(async move { exec_sync(cri, &id, &["fake"], 0).await });
    }
    // Half of the 256 shared slots, and the pod's reserve of four.
    until("as many run as may", || of_attacker() == 132).await;
    let refused = exec_url(cri.clone(), &attacker[0]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    for at_once in [1, 4, 40] {
        let slowest = slowest(&cri, &victim, at_once).await;
        assert!(slowest < limit, "one of {at_once} probes took {slowest:?}, more than {limit:?}");
    }
    let start = Instant::now();
    drop(exec(&node, &victim).await);
    cri.clone().list_containers(ListContainersRequest::default()).await.unwrap();
    assert!(start.elapsed() < limit, "{:?}, more than {limit:?}", start.elapsed());
    assert_eq!(of_attacker(), 132, "no more of the attacker's than that");

    hanging.shutdown().await;
    until("nothing is left of the commands", || node.leftovers() == before).await;
    // The clients disconnect one after the other, so some waiting commands may have got a slot before the server
    // noticed that their client had left: the more, the busier the machine is. `t6_a_caller_that_has_left_the_queue_…` tests that
    // none gets one afterwards.
    let more = of_attacker() - 132;
    assert!(more < 300 - 132, "all {more} that waited were made");
    assert_eq!(exec_sync(cri, &attacker[0], &["fake", "exit=0"], 5).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_streams_do_not_use_what_is_kept_for_probes() {
    let node = Node::start_with("[limits]\nexecs = 2\nexec_sync_reserve = 1\n").await;
    let mut held = Vec::new();
    for name in ["one", "other"] {
        let (_, id) = node.run_with_container(name, &["fake"]).await;
        held.push(exec(&node, &id).await);
        assert_eq!(exec_url(node.cri(), &id).await.unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(exec_sync(node.cri(), &id, &["fake", "exit=2"], 5).await.unwrap(), 2);
    }
    let (_, id) = node.run_with_container("third", &["fake"]).await;
    let refused = exec_url(node.cri(), &id).await.unwrap_err();
    assert!(refused.message().contains("limits.execs"), "{refused}");
    assert_eq!(exec_sync(node.cri(), &id, &["fake", "exit=2"], 5).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_pods_are_served_in_turn_however_many_commands_wait_in_one() {
    let node = Node::start_with("[limits]\nexecs = 1\nexec_sync_reserve = 0\n").await;
    let (_, many) = node.run_with_container("many", &["fake"]).await;
    let (_, one) = node.run_with_container("one", &["fake"]).await;
    let cri = node.patient_cri();
    // The first command ends only when all others wait, however long a busy machine takes to send them.
    let gate = node.containerd.hang("Tasks/Start", 1);
    let of_many = join_all((0..12).map(|_| async {
        exec_sync(cri.clone(), &many, &["fake", "exit=0"], 0).await.unwrap();
    }));
    let of_one = async {
        gate.arrived().await;
        until_waiting(&node, 11).await;
        let turn = async {
            until_waiting(&node, 12).await;
            gate.open();
        };
        tokio::join!(exec_sync(cri.clone(), &one, &["fake", "exit=0"], 20), turn).0.unwrap();
    };
    tokio::join!(of_many, of_one);
    let calls = node.containerd.calls();
    let mut made = calls.iter().filter(|call| call.method == "Tasks/Exec");
    let before = made.position(|call| call.object.starts_with(&one)).unwrap();
    assert!(before <= 3, "{before} others of 12 came first");
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_a_caller_that_has_left_the_queue_gets_no_slot() {
    let node = Node::start_with("[limits]\nexecs = 1\nexec_sync_reserve = 0\n").await;
    let (_, many) = node.run_with_container("many", &["fake"]).await;
    let (_, one) = node.run_with_container("one", &["fake"]).await;
    let cri = node.patient_cri();
    // It ends only when all others have left, however long a busy machine takes for that.
    let gate = node.containerd.hang("Tasks/Start", 1);
    let runs = {
        let (cri, id) = (cri.clone(), many.clone());
        tokio::spawn(async move { exec_sync(cri, &id, &["fake", "exit=7"], 0).await })
    };
    gate.arrived().await;
    // Half of the clients disconnect, and half of the calls time out.
    let mut waiting = JoinSet::new();
    for number in 0..200 {
        let (cri, id) = (cri.clone(), many.clone());
        waiting.spawn(async move { exec_sync(cri, &id, &["fake"], number % 2).await });
    }
    let mut late = 0;
    while late < 100 {
        let ended = waiting.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
        late += 1;
    }
    until_waiting(&node, 100).await;
    waiting.shutdown().await;
    until_waiting(&node, 0).await;
    gate.open();
    assert_eq!(exec_sync(cri, &one, &["fake", "exit=0"], 10).await.unwrap(), 0);
    assert_eq!(runs.await.unwrap().unwrap(), 7);
    assert_eq!(made(&node, ""), 2, "none that has left was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_the_queue_has_an_end_and_room_for_other_pods() {
    let node = Node::start_with("[limits]\nexecs = 1\nexec_sync_reserve = 0\n").await;
    let (_, many) = node.run_with_container("many", &["fake"]).await;
    let (_, one) = node.run_with_container("one", &["fake"]).await;
    let cri = node.patient_cri();
    let mut hanging = JoinSet::new();
    let mut ask = || {
        let (cri, id) = (cri.clone(), many.clone());
        hanging.spawn(async move { exec_sync(cri, &id, &["fake"], 0).await })
    };
    for _ in 0..2100 {
        ask();
    }
    // One command runs, and its pod may have half of the 4096 places in the queue.
    for _ in 0..2100 - 2049 {
        let refused = hanging.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("too many commands wait for their turn"), "{refused}");
    }
    let late = exec_sync(cri.clone(), &one, &["fake"], 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "it waited: {late}");
    hanging.shutdown().await;
    assert_eq!(exec_sync(cri, &one, &["fake", "exit=0"], 10).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_attached_clients_of_one_pod_leave_room_for_another_pods() {
    let node = Node::start_with("[limits]\nstreams = 4\n").await;
    let attacker = pod_of(&node, "attacker", 3).await;
    let (_, victim) = node.run_with_container("victim", &["fake"]).await;
    let url = async |id: &str| {
        let request = AttachRequest { container_id: id.to_owned(), stdout: true, ..AttachRequest::default() };
        node.cri().attach(request).await.map(|reply| reply.into_inner().url)
    };
    let mut held = Vec::new();
    for id in &attacker[..2] {
        held.push(Session::open(&url(id).await.unwrap()).await);
    }
    let attached = async |count: usize| {
        let line = format!("pontoon_streams{{kind=\"attach\"}} {count}\n");
        let seen = async { while !node.metrics().await.contains(&line) {} };
        tokio::time::timeout(PATIENCE, seen).await.expect("they are attached");
    };
    attached(2).await;
    let refused = url(&attacker[2]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    held.push(Session::open(&url(&victim).await.unwrap()).await);
    attached(3).await;
}
