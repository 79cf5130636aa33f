//! ExecSync: runs a command in a running container; returns its output and its exit code.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::v1::ExecSyncRequest;
use crate::container::Container;
use crate::container::io::{Collector, DRAIN, KeptOutput, REPLY_CAP};
use crate::joined;
use crate::runtime::lookup::require_running;
use crate::runtime::record_size::check_command;
use crate::runtime::streams::run_exec::{CommandRequest, ExecBounds, ExecStreams, run_exec};
use crate::runtime::{Error, Node, Result};
use crate::slots::{QueueFull, Slot};
use crate::telemetry::{Stream, Verb, millis};

/// What [`Error::Exhausted`] says there are too many of.
const TOO_MANY_WAITING: &str = "commands wait for their turn (limits.execs, limits.execs_per_container)";
/// A command that waits for longer than this is logged.
const LONG_QUEUE: Duration = Duration::from_secs(1);

/// A command's result. Its output is in the pieces it was read in, which count in the budget of replies until they are
/// dropped.
#[derive(Debug)]
pub struct ExecSyncReply {
    pub stdout: Vec<Bytes>,
    pub stderr: Vec<Bytes>,
    pub exit_code: i32,
}

/// Runs a command to its end. A non-zero exit code is a result, not an error. The request's timeout counts from now, so
/// it includes waiting for other commands of the node. When the client leaves, the command is killed, as with
/// containerd's CRI plugin.
///
/// # Errors
/// [`Error::State`] unless the container is running; [`Error::ExecTimeout`] after the request's timeout, with the
/// command killed; [`Error::Exhausted`] if too many wait; containerd's error if the command could not be started.
pub async fn exec_sync(node: &Arc<Node>, request: ExecSyncRequest) -> Result<ExecSyncReply> {
    let container = node.container(&request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Error::missing_field("cmd"));
    }
    check_command(&request.cmd)?;
    require_running(&container)?;
    let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let deadline = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
    let gone = CancellationToken::new();
    let _gone_on_drop = gone.clone().drop_guard();
    let (shared, bounds) = (Arc::clone(node), ExecBounds { gone, deadline });
    // Detached: a process that was created is deleted even if the client has left.
    let work = {
        let id = container.id().to_string();
        node.tasks.run_named(Verb::ExecSync, id, async move { run(&shared, &container, &request.cmd, &bounds).await })
    };
    let operation = joined::result(node.tasks.operation(work));
    match deadline {
        // Even if something below hangs, the client gets a response; the operation continues.
        Some((at, limit)) => tokio::time::timeout_at(at + DRAIN, operation)
            .await
            .map_err(|_| Error::ExecTimeout { id: request.container_id, limit })?,
        None => operation.await,
    }
}

async fn run(node: &Arc<Node>, container: &Container, cmd: &[String], bounds: &ExecBounds) -> Result<ExecSyncReply> {
    let since = Instant::now();
    let slot = queue(node, container, bounds).await?;
    let _alive = node.tasks.operations().metrics().stream(Stream::ExecSync);
    let kept = KeptOutput::new(REPLY_CAP, node.limits.replies.claim(container.sandbox().as_str()));
    let (mut stdout, mut stderr) = (Collector::new(&kept), Collector::new(&kept));
    let request = CommandRequest { container, cmd, tty: false, until: until(bounds), slot };
    let streams = ExecStreams { stdin: None, stdout: &mut stdout, stderr: &mut stderr, resize: None };
    let exit = run_exec(node, request, streams, bounds).await?;
    let (stdout, stderr) = (stdout.into_pieces(), stderr.into_pieces());
    if kept.discarded() > 0 {
        tracing::debug!(bytes = kept.discarded(), "output over the limit was discarded");
    }
    let exit_code = i32::try_from(exit.code).unwrap_or(i32::MAX);
    tracing::debug!(method = %"ExecSync", code = exit_code, ms = millis(since.elapsed()), "command ended");
    Ok(ExecSyncReply { stdout, stderr, exit_code })
}

/// Waits for a slot for a command, at most until its bounds are exceeded.
async fn queue(node: &Node, container: &Container, bounds: &ExecBounds) -> Result<Slot> {
    let id = container.id();
    let since = Instant::now();
    let slot = tokio::select! {
        biased;
        slot = node.limits.execs.take(container.sandbox().as_str(), id.as_str()) =>
            slot.map_err(|QueueFull| Error::Exhausted(TOO_MANY_WAITING)),
        why = bounds.over(id) => Err(why),
    };
    let waited = since.elapsed();
    if waited >= LONG_QUEUE {
        tracing::info!(ms = millis(waited), run = slot.is_ok(), "a command waited for others");
    }
    slot
}

/// Until when the command may live if this daemon ends earlier, in milliseconds since the epoch.
fn until(bounds: &ExecBounds) -> u64 {
    let Some((at, _)) = bounds.deadline else { return u64::MAX };
    let end = SystemTime::now() + at.saturating_duration_since(Instant::now());
    let since_epoch = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
