//! F9: a single decision determines whether a container starts in a pod that is being stopped. Once a stop has begun,
//! no container starts, and the stop succeeds only when no container runs.

use std::time::Duration;

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::server::Node;
use crate::support::{requests, until};

/// How many containers start at once in a race, and how many races there are.
const STARTS: usize = 6;
const ROUNDS: u64 = 24;

fn start(id: &str) -> StartContainerRequest {
    StartContainerRequest { container_id: id.to_owned() }
}

fn stop(sandbox: &str) -> StopPodSandboxRequest {
    StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() }
}

/// A pod with containers that are created but not started.
async fn created(node: &Node, name: &str, count: usize) -> (String, Vec<String>) {
    let pod = node.pod(name);
    let sandbox = node.run(&pod).await;
    let mut ids = Vec::new();
    for number in 0..count {
        let name = format!("main-{number}");
        ids.push(node.create(&requests::container(&sandbox, &pod, &name, &["fake"])).await);
    }
    (sandbox, ids)
}

/// Asserts what must hold when a stop has succeeded, and afterwards.
async fn assert_stopped(node: &Node, sandbox: &str, case: &str) {
    for _ in 0..3 {
        assert_eq!(node.containerd.running(), [] as [String; 0], "{case}: the stop succeeded around live processes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.sandboxes().await, [(sandbox.to_owned(), PodSandboxState::SandboxNotready)], "{case}");
    let running = |(_, state): &(String, ContainerState)| *state == ContainerState::ContainerRunning;
    assert!(!node.containers().await.iter().any(running), "{case}: a container is told to run");
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_no_container_starts_once_a_stop_of_its_pod_has_begun() {
    let node = Node::start().await;
    for step in ["Tasks/Kill", "Containers/Update", "Tasks/Delete", "DEL"] {
        let (sandbox, ids) = created(&node, "web", 2).await;
        node.start_container(&ids[0]).await;
        let gate = if step == "DEL" {
            node.cni.hang("DEL");
            None
        } else {
            Some(node.containerd.hang(step, 1))
        };
        let (mut cri, request) = (node.cri(), stop(&sandbox));
        let stopping = tokio::spawn(async move { cri.stop_pod_sandbox(request).await });
        match gate {
            Some(gate) => gate.arrived().await,
            None => until("the container has ended", || !node.containerd.running().contains(&ids[0])).await,
        }
        let error = node.cri().start_container(start(&ids[1])).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{step}: {error}");
        assert_eq!(node.status(&ids[1]).await.state(), ContainerState::ContainerCreated, "{step}");
        node.containerd.heal();
        node.cni.heal();
        stopping.await.unwrap().unwrap();
        assert_stopped(&node, &sandbox, step).await;
        node.remove(&sandbox).await;
        node.assert_clean(step).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_a_stop_waits_for_the_start_that_came_before_it() {
    let node = Node::start().await;
    let (sandbox, ids) = created(&node, "web", 1).await;
    let begin = node.containerd.calls().len();
    node.start_container(&ids[0]).await;
    let steps = node.containerd.steps_since(begin);
    node.remove(&sandbox).await;
    assert!(steps.len() >= 3, "{steps:?}");
    for (method, nth) in steps {
        let case = format!("{method} number {nth}");
        let (sandbox, ids) = created(&node, "web", 1).await;
        let gate = node.containerd.hang(&method, nth);
        let (mut cri, request) = (node.cri(), start(&ids[0]));
        let starting = tokio::spawn(async move { cri.start_container(request).await });
        gate.arrived().await;
        let (mut cri, request) = (node.cri(), stop(&sandbox));
        let stopping = tokio::spawn(async move { cri.stop_pod_sandbox(request).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!stopping.is_finished(), "{case}: the stop is over while the start hangs");
        gate.open();
        stopping.await.unwrap().unwrap();
        assert_stopped(&node, &sandbox, &case).await;
        // Both results are right: the container ran and was stopped, or its start was refused.
        let _ = starting.await.unwrap();
        node.remove(&sandbox).await;
        node.assert_clean(&case).await;
    }
}

/// Pseudo-random numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_starts_race_with_the_stop_of_their_pod() {
    let node = Node::start().await;
    let mut dice = Dice(9);
    let (mut ran, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let (sandbox, ids) = created(&node, "web", STARTS).await;
        // In every second race, one call hangs for a while.
        let methods = ["Snapshots/Mounts", "Tasks/Create", "Tasks/Start", "Tasks/Kill", "Tasks/Delete"];
        let method = methods[usize::try_from(dice.below(5)).unwrap()];
        let gate = (round % 2 == 1).then(|| node.containerd.hang(method, 1));
        let starts: Vec<_> = ids
            .iter()
            .map(|id| {
                let (mut cri, request, delay) = (node.cri(), start(id), Duration::from_micros(dice.below(3000)));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    cri.start_container(request).await.map(drop)
                })
            })
            .collect();
        let (mut cri, request, delay) = (node.cri(), stop(&sandbox), Duration::from_micros(dice.below(3000)));
        let stopping = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            cri.stop_pod_sandbox(request).await
        });
        if let Some(gate) = gate {
            tokio::time::sleep(Duration::from_millis(20)).await;
            gate.open();
        }
        let case = format!("round {round}");
        stopping.await.unwrap().unwrap();
        assert_stopped(&node, &sandbox, &case).await;
        for (id, start) in ids.iter().zip(starts) {
            let started: Result<(), Status> = start.await.unwrap();
            let state = node.status(id).await.state();
            match started {
                Ok(()) => {
                    ran += 1;
                    assert_eq!(state, ContainerState::ContainerExited, "{case}");
                }
                Err(error) => {
                    refused += 1;
                    assert_ne!(state, ContainerState::ContainerRunning, "{case}: {error}");
                }
            }
        }
        assert_stopped(&node, &sandbox, &case).await;
        node.containerd.heal();
        node.remove(&sandbox).await;
        node.assert_clean(&case).await;
    }
    assert!(ran > 0 && refused > 0, "no race: {ran} ran, {refused} were refused");
}
