//! States that must never be observed, no matter which calls are made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon::api::v1::*;

use super::kubelet::Kubelet;
use crate::support::server::Node;

/// The pause between two checks.
const AGAIN: Duration = Duration::from_millis(100);

/// Checks a node in the background while a cell runs.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    looking: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// The exits that containers reported.
    exits: BTreeMap<String, (i32, String)>,
    wrong: BTreeSet<String>,
}

impl Witness {
    pub fn new(node: &Arc<Node>) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let (node, shared) = (Arc::clone(node), Arc::clone(&seen));
        let looking = tokio::spawn(async move {
            loop {
                look(&node, &shared).await;
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { seen, looking }
    }

    /// Checks once more, and returns everything that was wrong.
    pub async fn tell(self, node: &Arc<Node>) -> Vec<String> {
        self.looking.abort();
        look(node, &self.seen).await;
        self.seen.lock().unwrap().wrong.iter().cloned().collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(node: &Arc<Node>, seen: &Mutex<Seen>) {
    let kubelet = Kubelet::new(node);
    let Ok(containers) = kubelet.containers().await else { return };
    // Read after the list: a container that is listed as exited must have no running process from then on.
    let running = node.containerd.running();
    for container in containers.iter().filter(|one| one.state() == ContainerState::ContainerExited) {
        let Ok(status) = kubelet.status(&container.id).await else { continue };
        let told = (status.exit_code, status.reason.clone());
        let mut seen = seen.lock().unwrap();
        if running.contains(&container.id) {
            seen.wrong.insert(format!("a container is told EXITED {told:?} and its process runs"));
        }
        if told.0 == 255 {
            seen.wrong.insert("a container is told to have exited with 255".to_owned());
        }
        let first = seen.exits.entry(container.id.clone()).or_insert_with(|| told.clone()).clone();
        if first != told {
            seen.wrong.insert(format!("a container that was told to have exited with {first:?} is now {told:?}"));
        }
    }
}

/// Running processes that belong to no object that is listed as alive.
pub async fn ownerless(node: &Node) -> Vec<String> {
    let kubelet = Kubelet::new(node);
    let (Ok(sandboxes), Ok(containers)) = (kubelet.sandboxes().await, kubelet.containers().await) else {
        return vec!["the lists fail".to_owned()];
    };
    let ready = sandboxes.iter().filter(|one| one.state() == PodSandboxState::SandboxReady).map(|one| &one.id);
    let alive = containers.iter().filter(|one| one.state() == ContainerState::ContainerRunning).map(|one| &one.id);
    let owned: BTreeSet<&String> = ready.chain(alive).collect();
    let running = node.containerd.running();
    let without = running.iter().filter(|process| !owned.contains(process));
    let name = |process: &String| {
        let told = containers.iter().find(|one| one.id == *process).map(|one| one.state().as_str_name());
        let listed = sandboxes.iter().find(|one| one.id == *process).map(|one| one.state().as_str_name());
        let told = told.or(listed).unwrap_or(if process.contains('/') { "a command" } else { "not listed" });
        format!("a process runs without an owner: {told}")
    };
    without.map(name).collect()
}
