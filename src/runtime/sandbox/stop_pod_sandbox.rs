//! StopPodSandbox: containers in parallel → pause killed in parallel with CNI DEL → network namespace unmounted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::api::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use crate::cgroup;
use crate::container::{self, Container, Grace};
use crate::joined::run_blocking;
use crate::log_keys::add_keys;
use crate::netns;
use crate::runtime::error::both;
use crate::runtime::lookup::unless_missing;
use crate::runtime::rollback::with_creation_error;
use crate::runtime::{Error, Node, Repeatable, Result};
use crate::sandbox::{Event, Sandbox, State};
use crate::telemetry::{Stage, Verb, during};

/// How long the deletion of the pause task waits for the deletion of the containers' tasks. They share a shim, which
/// ends with its last task: if its tasks are deleted at the same time, it can leave behind its socket, or the task's
/// directory.
const TASK_DELETION_WAIT: Duration = Duration::from_secs(5);
/// How long the exit of a process that has ended may take to be written. The pod's stop does not wait longer.
const EXIT_WRITE_WAIT: Duration = Duration::from_secs(5);

/// Stops every process of a sandbox and releases its network. Stopping an unknown or stopped sandbox succeeds.
///
/// # Errors
/// The first step that failed: repeat the call.
pub async fn stop_pod_sandbox(node: &Arc<Node>, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
    if let Some(sandbox) = unless_missing(node.sandbox(&request.pod_sandbox_id))? {
        if sandbox.state() != State::Stopped {
            node.availability.ready(Verb::StopPodSandbox).await?;
        }
        let stopped = node.stop_sandbox(&sandbox).await;
        stopped.map_err(|error| with_creation_error(&*sandbox, error))?;
    }
    Ok(StopPodSandboxResponse {})
}

impl Node {
    /// Joins the stop in progress, or starts one.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let operation = Repeatable::StopSandbox(sandbox.id().clone());
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        let start = || async move { steps(&node, &sandbox).await };
        self.in_flight.join_or_start(operation, start).await
    }
}

async fn steps(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    add_keys(sandbox.log_keys());
    // From now on no container can be created or started in it.
    if sandbox.on(Event::StopRequested) == Ok(State::Stopped) {
        return Ok(());
    }
    let containers = node.store.containers_of(sandbox.id());
    let stops = containers.iter().map(|container| end_process(node, container));
    during(Stage::Containers, join_all(stops)).await.into_iter().collect::<Result<Vec<()>>>()?;

    // The statistics hold the network namespace open, which is removed below.
    node.stats.forget_network(sandbox.id().as_str());
    // Each runs to its end, whatever the result of the other.
    let (paused, detached) =
        tokio::join!(during(Stage::Pause, node.end_pause(sandbox, &containers)), node.detach_network(sandbox));
    if paused.is_ok() {
        node.announce_end(sandbox);
    }
    both(paused, detached)?;

    for container in &containers {
        during(Stage::Volumes, node.unmount_image_volumes(container)).await?;
    }
    if let Some(path) = sandbox.netns(&node.config.netns_dir) {
        let removed = during(Stage::Netns, netns::remove(&path)).await;
        removed.map_err(|source| Error::Netns { id: sandbox.id().to_string(), source })?;
    }
    cgroup::remove(&sandbox.cgroups_path(sandbox.id().as_str()), node.host.facts.cgroup_v2);
    let paths = node.paths(sandbox);
    let removed = during(Stage::Files, run_blocking(move || paths.remove())).await;
    removed.map_err(|source| Error::Files { id: sandbox.id().to_string(), source })?;
    // A Stop has begun, so this is allowed.
    let _ = sandbox.on(Event::Reclaimed);
    Ok(())
}

/// Resolves when no process of the container is alive. By then its exit is reported, if it can be written.
async fn end_process(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let over = async {
        let _ = container
            .watch()
            .wait_for(|state| !matches!(state, container::State::Starting | container::State::Unknown))
            .await;
        container.task().process_ended().await;
        tokio::time::sleep(EXIT_WRITE_WAIT).await;
    };
    tokio::select! {
        ended = node.end_container(container, Grace::NONE) => ended,
        () = over => Ok(()),
    }
}

impl Node {
    async fn end_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>, containers: &[Arc<Container>]) -> Result<()> {
        let gone = join_all(containers.iter().map(async |container| container.task().gone().await));
        let _ = tokio::time::timeout(TASK_DELETION_WAIT, gone).await;
        Ok(self.end_pause_task(sandbox).await?)
    }
}
