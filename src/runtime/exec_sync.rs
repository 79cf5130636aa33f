//! ExecSync: a command in a running container, its output and its exit code.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Node, Result, task};
use crate::api::v1::{ExecSyncRequest, ExecSyncResponse};
use crate::container::io::ExecIo;
use crate::container::{Container, State};
use crate::containerd::{ExecTask, Exit};
use crate::ids::ExecId;
use crate::spec;

/// Stdout and stderr together: kubelet takes messages of 16 MiB (rulings.md 33).
const OUTPUT_LIMIT: usize = (16 << 20) - (64 << 10);
/// How long output may go on after the command ended: a background child may hold its pipes.
const DRAIN: Duration = Duration::from_secs(10);

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
    let operation = node.tasks.operation(async move { run(&shared, &container, &request.cmd, limit).await });
    operation.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn run(node: &Node, container: &Container, cmd: &[String], limit: Option<Duration>) -> Result<ExecSyncResponse> {
    let id = container.id().as_str();
    let exec_id = ExecId::random();
    let directory = node.config.state.join("exec");
    let io = ExecIo::prepare(&directory, &exec_id).await;
    let io = io.map_err(|source| Error::Io { id: id.to_owned(), source })?;
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&container.spec())
        .map_err(|error| Error::System { operation: "decode", path: "OCI spec".to_owned(), source: error.into() })?;
    let process = serde_json::to_vec(&spec::exec_process(&spec, cmd, false))
        .map_err(|error| Error::System { operation: "encode", path: "process".to_owned(), source: error.into() })?;
    let exec = ExecTask { id: id.to_owned(), exec_id: exec_id.to_string(), process, stdio: io.stdio() };
    node.containerd.exec_task(exec).await?;
    let result = follow(node, id, &exec_id, io, limit).await;
    // Whatever happened, the process is over or never began.
    if let Err(error) = node.containerd.delete_exec(id, exec_id.as_str()).await {
        tracing::warn!(container = id, exec = %exec_id, %error, "an exec process could not be deleted");
    }
    result
}

async fn follow(node: &Node, id: &str, exec_id: &ExecId, io: ExecIo, limit: Option<Duration>) -> Result<ExecSyncResponse> {
    let wait = node.containerd.wait_task(id, exec_id.as_str());
    let mut reading = io.read(OUTPUT_LIMIT);
    node.containerd.start_task(id, exec_id.as_str()).await?;
    reading.started();
    match ended(wait, limit).await {
        Some(exit) => {
            let exit = exit?;
            let output = reading.finish(DRAIN).await;
            let exit_code = i32::try_from(exit.code).unwrap_or(i32::MAX);
            Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code })
        }
        None => {
            node.containerd.kill_task(id, exec_id.as_str(), task::SIGKILL, false).await?;
            // It cannot be deleted before it is gone.
            node.containerd.wait_task(id, exec_id.as_str()).await?;
            Err(Error::ExecTimeout { id: id.to_owned(), limit: limit.unwrap_or_default() })
        }
    }
}

async fn ended<F>(wait: F, limit: Option<Duration>) -> Option<crate::containerd::Result<Exit>>
where
    F: Future<Output = crate::containerd::Result<Exit>>,
{
    match limit {
        Some(limit) => tokio::time::timeout(limit, wait).await.ok(),
        None => Some(wait.await),
    }
}
