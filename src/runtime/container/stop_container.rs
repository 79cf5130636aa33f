//! StopContainer: stop signal → grace period → SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::api::v1::{StopContainerRequest, StopContainerResponse};
use crate::cgroup;
use crate::container::{Container, Event, Exit, Grace, Reason, State, Stop};
use crate::joined::run_blocking;
use crate::log_keys::add_keys;
use crate::runtime::lookup::unless_missing;
use crate::runtime::{Node, Repeatable, Result};
use crate::task::{Found, Machine};
use crate::telemetry::{Stage, Verb, during};

/// How long a process takes at most to die of SIGKILL, unless something holds it.
const KILL_TAKES: Duration = Duration::from_secs(1);
/// Pause between two searches for what holds it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Stops a container within its grace period. Stopping an unknown or ended one succeeds.
///
/// # Errors
/// containerd's error, if the stop signal could not be sent.
pub async fn stop_container(node: &Arc<Node>, request: StopContainerRequest) -> Result<StopContainerResponse> {
    if let Some(container) = unless_missing(node.container(&request.container_id))? {
        if container.state().is_alive() {
            node.availability.ready(Verb::StopContainer).await?;
        }
        node.end_container(&container, Grace::seconds(request.timeout)).await?;
    }
    Ok(StopContainerResponse {})
}

impl Node {
    /// Resolves when no process of the container is alive. Joins a stop in progress, and shortens it if this grace
    /// period ends earlier.
    pub(crate) async fn end_container(self: &Arc<Self>, container: &Arc<Container>, grace: Grace) -> Result<()> {
        // A start in progress ends soon, in success or failure.
        let _ = container.watch().wait_for(|state| *state != State::Starting).await;
        if !container.state().is_alive() {
            return Ok(());
        }
        let stop = container.join_stop(grace);
        let operation = Repeatable::StopContainer(container.id().clone());
        let (node, container) = (Arc::clone(self), Arc::clone(container));
        let start = || async move {
            add_keys(node.log_keys(&container));
            let result = steps(&node, &container, &stop).await;
            stop.finish();
            result
        };
        self.in_flight.join_or_start(operation, start).await
    }
}

async fn steps(node: &Arc<Node>, container: &Arc<Container>, stop: &Stop) -> Result<()> {
    if container.state() == State::Unknown {
        end_unknown(node, container).await;
        return Ok(());
    }
    let task = container.task();
    if !stop.is_immediate() {
        let ended = during(Stage::Grace, async {
            task.signal(container.record.resolved.stop_signal).await?;
            tokio::select! {
                () = container.ended() => Result::Ok(true),
                () = stop.grace_over() => Ok(false),
            }
        });
        if ended.await? {
            return Ok(());
        }
    }
    // Processes that share the pod's PID namespace do not die with the container's first process. For a task without a
    // PID namespace of its own, runc itself kills all processes of the cgroup.
    task.end();
    let ended = async {
        if timeout(KILL_TAKES, container.ended()).await.is_ok() {
            return;
        }
        loop {
            thaw(node, container).await;
            if timeout(LOOK_AGAIN, container.ended()).await.is_ok() {
                return;
            }
        }
    };
    during(Stage::Kill, ended).await;
    Ok(())
}

/// Thaws the container's cgroup: a frozen process does not die of SIGKILL.
pub(crate) async fn thaw(node: &Node, container: &Container) {
    let (path, unified) = (container.root.cgroups_path.clone(), node.host.facts.cgroup_v2);
    let frozen = run_blocking(move || cgroup::thaw(&path, unified)).await;
    if let Some(above) = frozen.above {
        tracing::warn!(cgroup = %above.display(), "cannot be killed while a cgroup above it is frozen");
    }
}

/// Ends a container whose record could not be read. Its task has no owner until then.
async fn end_unknown(node: &Arc<Node>, container: &Arc<Container>) {
    during(Stage::TaskDelete, container.task().gone()).await;
    node.own_task(container, Machine::found(Found::Leftover));
    during(Stage::Kill, container.task().gone()).await;
    let exit = Exit {
        code: 255,
        started_at: 0,
        finished_at: crate::runtime::now(),
        reason: Reason::Unknown,
        message: String::new(),
    };
    let _ = node.apply_event(container, Event::Ended(exit));
}
