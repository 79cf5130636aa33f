//! ExecSync: a command in a running container, its output and its exit code.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Node, Result, task};
use crate::api::v1::{ExecSyncRequest, ExecSyncResponse};
use crate::container::io::{ExecIo, Limits};
use crate::container::{Container, State};
use crate::containerd::{ExecTask, Exit};
use crate::ids::ExecId;
use crate::spec;
use crate::telemetry::{Stage, Stream, Verb, during};

/// How often a process is killed and deleted.
const DESTROY_TRIES: u32 = 6;
/// How long it has to be gone the first time; then four times as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Runs a command to its end. A non-zero exit code is an answer, not an error.
///
/// # Errors
/// [`Error::State`] unless the container runs; [`Error::ExecTimeout`] after the request's
/// timeout, with the command killed; containerd's when it could not be started.
pub async fn exec_sync(node: &Arc<Node>, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
    let container = node.container(&request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Error::missing_field("cmd"));
    }
    let State::Running { .. } = container.state() else {
        return Err(Error::State {
            kind: "container",
            id: container.id().to_string(),
            state: container.state().name().to_owned(),
            wanted: "running",
        });
    };
    let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let shared = Arc::clone(node);
    // Detached: a process that was made is deleted even when the client has left.
    let id = container.id().to_string();
    node.operation(Verb::ExecSync, id, async move { run(&shared, &container, &request.cmd, limit).await }).await
}

async fn run(node: &Node, container: &Container, cmd: &[String], limit: Option<Duration>) -> Result<ExecSyncResponse> {
    let _alive = node.metrics.stream(Stream::ExecSync);
    let id = container.id().as_str();
    let exec_id = ExecId::random();
    let fails = |source| Error::Io { id: id.to_owned(), source };
    let (io, stdio) = ExecIo::prepare(&node.config.state.join("exec").join(exec_id.as_str())).map_err(fails)?;
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&container.spec()).map_err(|error| Error::System {
        operation: "decode",
        path: "OCI spec".to_owned(),
        source: error.into(),
    })?;
    let process = serde_json::to_vec(&spec::exec_process(&spec, cmd, false)).map_err(|error| Error::System {
        operation: "encode",
        path: "process".to_owned(),
        source: error.into(),
    })?;
    let exec = ExecTask { id: id.to_owned(), exec_id: exec_id.to_string(), process, stdio };
    let process = Process { node, id, exec_id: &exec_id };
    let result = match during(Stage::TaskCreate, node.containerd.exec_task(exec)).await {
        Ok(()) => process.follow(io, limit).await,
        Err(error) => Err(error.into()),
    };
    // Whatever happened; a reply that was lost may have been a success.
    during(Stage::TaskDelete, process.destroy()).await;
    result
}

/// A process that was added to a container's task.
struct Process<'a> {
    node: &'a Node,
    id: &'a str,
    exec_id: &'a ExecId,
}

impl Process<'_> {
    async fn follow(&self, io: ExecIo, limit: Option<Duration>) -> Result<ExecSyncResponse> {
        during(Stage::TaskStart, self.node.containerd.start_task(self.id, self.exec_id.as_str())).await?;
        let output = during(Stage::Command, io.collect(Limits::default(), self.ended(limit))).await;
        let exit = output.exit?;
        if !output.complete {
            tracing::debug!(container = self.id, "a command left somebody behind who holds its output");
        }
        let exit_code = i32::try_from(exit.code).unwrap_or(i32::MAX);
        Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code })
    }

    /// The process's own end, or the one that we put to it.
    async fn ended(&self, limit: Option<Duration>) -> Result<Exit> {
        let wait = self.node.containerd.wait_task(self.id, self.exec_id.as_str());
        let ended = match limit {
            Some(limit) => tokio::time::timeout(limit, wait)
                .await
                .map_err(|_| Error::ExecTimeout { id: self.id.to_owned(), limit }),
            None => Ok(wait.await),
        };
        let error = match ended {
            Ok(Ok(exit)) => return Ok(exit),
            Ok(Err(error)) => error.into(),
            Err(timeout) => timeout,
        };
        // Nobody waits for it any more; and its output ends only with it.
        self.destroy().await;
        Err(error)
    }

    /// Deletes the process, killed if it has not ended.
    async fn destroy(&self) {
        let (containerd, exec_id) = (&self.node.containerd, self.exec_id.as_str());
        let mut pause = FIRST_PAUSE;
        for _ in 0..DESTROY_TRIES {
            let Err(error) = containerd.delete_exec(self.id, exec_id).await else { return };
            let killed = containerd.kill_task(self.id, exec_id, task::SIGKILL).await;
            tracing::debug!(container = self.id, exec = exec_id, %error, ?killed, "an exec process is not deleted yet");
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        tracing::warn!(container = self.id, exec = exec_id, "an exec process could not be deleted");
    }
}
