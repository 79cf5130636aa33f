//! Exec: a command in a running container, with its streams connected to a client.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::v1::{ExecRequest, ExecResponse};
use crate::container::Container;
use crate::container::io::Target;
use crate::runtime::lookup::require_running;
use crate::runtime::read_size::ReadSize;
use crate::runtime::record_size::check_command;
use crate::runtime::streams::run_exec::{CommandRequest, ExecBounds, ExecStreams, run_exec};
use crate::runtime::{Error, Node, Result};
use crate::slots::Slot;
use crate::streaming::{self, Failure, Sink, Streaming, Streams};
use crate::telemetry::{Stream, millis};

/// What [`Error::Exhausted`] says there are too many of.
const TOO_MANY_COMMANDS: &str = "commands run (limits.execs, limits.execs_per_container)";
/// What [`Error::Exhausted`] says there are too many of, if too many URLs were issued and not used yet.
pub(crate) const TOO_MANY_UNCLAIMED: &str = "URLs wait for their clients";

/// Returns the URL at which the client finds the command's streams. The command starts when the client connects.
///
/// # Errors
/// [`Error::Invalid`] for streams that cannot be combined; [`Error::State`] unless the container is running;
/// [`Error::Exhausted`] if too many commands run, or too many URLs are unused.
pub fn exec(node: &Node, streaming: &Streaming, request: ExecRequest) -> Result<ExecResponse> {
    let container = node.container(&request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Error::missing_field("cmd"));
    }
    check_command(&request.cmd)?;
    check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
    require_running(&container)?;
    take_slot(node, &container)?;
    let request = streaming::Exec {
        sandbox: container.sandbox().clone(),
        container: container.id().clone(),
        command: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let url = streaming.exec_url(request).map_err(|_| Error::Exhausted(TOO_MANY_UNCLAIMED))?;
    Ok(ExecResponse { url })
}

/// A slot for a command whose client may hold it for long, so none of those that are reserved for ExecSync.
fn take_slot(node: &Node, container: &Container) -> Result<Slot> {
    let slot = node.limits.execs.try_take(container.sandbox().as_str(), container.id().as_str());
    slot.ok_or(Error::Exhausted(TOO_MANY_COMMANDS))
}

/// Refuses a request of Exec or Attach whose streams cannot be combined.
pub(crate) fn check_streams(tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<()> {
    if tty && stderr {
        let problem = "tty and stderr cannot both be true: a terminal has one output stream".to_owned();
        return Err(Error::Invalid { field: "stderr", problem });
    }
    if !(stdin || stdout || stderr) {
        let problem = "one of stdin, stdout and stderr must be set".to_owned();
        return Err(Error::Invalid { field: "stdout", problem });
    }
    Ok(())
}

/// Runs the command for a connected client, and returns its exit code. When the client leaves, the command is killed
/// with SIGKILL and deleted.
pub(crate) async fn exec_session(
    node: Arc<Node>,
    request: streaming::Exec,
    streams: Streams,
) -> std::result::Result<i32, Failure> {
    let _alive = node.tasks.operations().metrics().stream(Stream::Exec);
    let since = Instant::now();
    let result = run(&node, request, streams).await;
    log_end(&result, millis(since.elapsed()));
    result.map_err(|error| Failure(error.chain()))
}

/// A person may have run the command, so its end is always logged. The call's own line was written before its start.
fn log_end(result: &Result<i32>, ms: u64) {
    let method = "Exec";
    match result {
        Ok(code) => tracing::info!(%method, code, ms, "command ended"),
        Err(error @ Error::ClientGone { .. }) => tracing::info!(%method, error = %error, ms, "command killed"),
        Err(error) => tracing::warn!(%method, error = error.chain(), ms, "command failed"),
    }
}

async fn run(node: &Arc<Node>, request: streaming::Exec, streams: Streams) -> Result<i32> {
    let container = node.container(request.container.as_str())?;
    // Both may have changed since the URL was created.
    require_running(&container)?;
    let slot = take_slot(node, &container)?;
    let mut stdout = ToClient::new(streams.stdout, streams.gone.clone());
    let mut stderr = ToClient::new(streams.stderr, streams.gone.clone());
    let bounds = ExecBounds { gone: streams.gone, deadline: None };
    let exec_streams = ExecStreams {
        stdin: streams.stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        resize: request.tty.then_some(streams.resize),
    };
    // The command cannot outlive the daemon, which holds its client's connection.
    let request = CommandRequest { container: &container, cmd: &request.command, tty: request.tty, until: 0, slot };
    let exit = run_exec(node, request, exec_streams, &bounds).await;
    // A child of the command may still hold the streams open.
    stdout.ended().await;
    stderr.ended().await;
    Ok(i32::try_from(exit?.code).unwrap_or(i32::MAX))
}

/// Output for a client; it is read only as fast as the client reads.
struct ToClient {
    /// `None` if the client has not requested this output, or has closed it: then it is discarded, as by
    /// `cat >/dev/null`.
    sink: Option<Box<dyn Sink>>,
    gone: CancellationToken,
    /// Its memory is reused as soon as the client has received what was in it.
    buffer: BytesMut,
    read_size: ReadSize,
}

impl ToClient {
    fn new(sink: Option<Box<dyn Sink>>, gone: CancellationToken) -> Self {
        Self { sink, gone, buffer: BytesMut::new(), read_size: ReadSize::default() }
    }
}

impl Target for ToClient {
    async fn reserve(&mut self) {
        self.read_size.reserve(&mut self.buffer);
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        &mut self.buffer
    }

    async fn consume(&mut self) {
        self.read_size.adapt_to(self.buffer.len());
        match &mut self.sink {
            Some(sink) => {
                if sink.send(self.buffer.split().freeze()).await.is_err() {
                    self.sink = None;
                }
            }
            None => self.buffer.clear(),
        }
    }

    async fn ended(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            tokio::select! {
                () = sink.finish() => {}
                () = self.gone.cancelled() => {}
            }
        }
    }
}
