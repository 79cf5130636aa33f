//! ExecSync: a command in a running container, its output and its exit code.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::v1::ExecSyncRequest;
use crate::container::Container;
use crate::container::io::{Collector, DRAIN, Kept, REPLY_CAP};
use crate::runtime::lookup::require_running;
use crate::runtime::record_size::check_command;
use crate::runtime::streams::run_exec::{Ask, Bounds, Ends, run_exec};
use crate::runtime::{Error, Node, Result};
use crate::slots::{Crowded, Slot};
use crate::telemetry::{Stream, Verb};

/// What there can be too many of.
const WAITING: &str = "commands wait for their turn (limits.execs, limits.execs_per_container)";
/// Queueing for longer than this is worth a line.
const LONG_QUEUE: Duration = Duration::from_secs(1);

/// What a command said, in the pieces it was read in: they count in the budget of replies until they are dropped.
#[derive(Debug)]
pub struct ExecSyncReply {
    /// What it wrote to stdout.
    pub stdout: Vec<Bytes>,
    /// What it wrote to stderr.
    pub stderr: Vec<Bytes>,
    /// What it returned.
    pub exit_code: i32,
}

/// Runs a command to its end. A non-zero exit code is an answer, not an error. The request's timeout is counted from
/// now, a wait for other commands of the node included. When the client leaves, the command is killed, as containerd's
/// CRI does it.
///
/// # Errors
/// [`Error::State`] unless the container runs; [`Error::ExecTimeout`] after the request's
/// timeout, with the command killed; [`Error::Exhausted`] when too many wait; containerd's when it could not be started.
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
    let (shared, bounds) = (Arc::clone(node), Bounds { gone, deadline });
    // Detached: a process that was made is deleted even when the client has left.
    let work = {
        let id = container.id().to_string();
        node.tasks.named(Verb::ExecSync, id, async move { run(&shared, &container, &request.cmd, &bounds).await })
    };
    let operation = node.tasks.operation(work);
    let ended = match deadline {
        // Whatever hangs below, the client has its answer; the operation goes on.
        Some((at, limit)) => tokio::time::timeout_at(at + DRAIN, operation)
            .await
            .map_err(|_| Error::ExecTimeout { id: request.container_id, limit })?,
        None => operation.await,
    };
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn run(node: &Arc<Node>, container: &Container, cmd: &[String], bounds: &Bounds) -> Result<ExecSyncReply> {
    let slot = queue(node, container, bounds).await?;
    let _alive = node.metrics.stream(Stream::ExecSync);
    let kept = Kept::new(REPLY_CAP, node.replies.claim(container.sandbox().as_str()));
    let (mut stdout, mut stderr) = (Collector::new(&kept), Collector::new(&kept));
    let ask = Ask { container, cmd, tty: false, until: until(bounds), slot };
    let ends = Ends { stdin: None, stdout: &mut stdout, stderr: &mut stderr, resize: None };
    let exit = run_exec(node, ask, ends, bounds).await?;
    let (stdout, stderr) = (stdout.into_pieces(), stderr.into_pieces());
    if kept.discarded() > 0 {
        tracing::debug!(container = %container.id(), bytes = kept.discarded(), "output over the limit was discarded");
    }
    Ok(ExecSyncReply { stdout, stderr, exit_code: i32::try_from(exit.code).unwrap_or(i32::MAX) })
}

/// Waits for the turn of a command, in its bounds.
async fn queue(node: &Node, container: &Container, bounds: &Bounds) -> Result<Slot> {
    let id = container.id();
    let since = Instant::now();
    let slot = tokio::select! {
        biased;
        slot = node.execs.take(container.sandbox().as_str(), id.as_str()) =>
            slot.map_err(|Crowded| Error::Exhausted(WAITING)),
        why = bounds.over(id) => Err(why),
    };
    let waited = since.elapsed();
    if waited >= LONG_QUEUE {
        tracing::info!(container = %id, ms = waited.as_millis(), run = slot.is_ok(), "a command waited for others");
    }
    slot
}

/// Until when the command may live should this process not.
fn until(bounds: &Bounds) -> u64 {
    let Some((at, _)) = bounds.deadline else { return u64::MAX };
    let end = SystemTime::now() + at.saturating_duration_since(Instant::now());
    let since_epoch = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
