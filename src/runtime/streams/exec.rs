//! Exec: a command in a running container, whose streams a client holds.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio_util::sync::CancellationToken;

use crate::api::v1::{ExecRequest, ExecResponse};
use crate::container::Container;
use crate::container::io::Target;
use crate::runtime::lookup::require_running;
use crate::runtime::record_size::check_command;
use crate::runtime::room::Room;
use crate::runtime::streams::run_exec::{Ask, Bounds, Ends, run_exec};
use crate::runtime::{Error, Node, Result};
use crate::slots::Slot;
use crate::streaming::{self, Failure, Sink, Streaming, Streams};
use crate::telemetry::Stream;

/// What there can be too many of.
const COMMANDS: &str = "commands run (limits.execs, limits.execs_per_container)";
/// The same of URLs.
pub(crate) const UNCLAIMED: &str = "URLs wait for their clients";

/// Answers where the client finds the command's streams. It runs when the client is there.
///
/// # Errors
/// [`Error::Invalid`] for streams that cannot be had together; [`Error::State`] unless the container runs;
/// [`Error::Exhausted`] when as many commands run as may, or as many URLs wait.
pub fn exec(node: &Node, streaming: &Streaming, request: ExecRequest) -> Result<ExecResponse> {
    let container = node.container(&request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Error::missing_field("cmd"));
    }
    check_command(&request.cmd)?;
    check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
    require_running(&container)?;
    take_slot(node, &container)?;
    let ask = streaming::Exec {
        sandbox: container.sandbox().clone(),
        container: container.id().clone(),
        command: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let url = streaming.exec_url(ask).map_err(|_| Error::Exhausted(UNCLAIMED))?;
    Ok(ExecResponse { url })
}

/// A slot for a command whose client may keep it for long: not of what is reserved for ExecSync.
fn take_slot(node: &Node, container: &Container) -> Result<Slot> {
    let slot = node.execs.try_take(container.sandbox().as_str(), container.id().as_str());
    slot.ok_or(Error::Exhausted(COMMANDS))
}

/// What Exec and Attach may not ask for, in upstream's words.
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

/// Runs the command for a client that has come; its exit code. It dies with its client: SIGKILL, and it is deleted.
pub(crate) async fn exec_session(
    node: Arc<Node>,
    ask: streaming::Exec,
    streams: Streams,
) -> std::result::Result<i32, Failure> {
    let _alive = node.metrics.stream(Stream::Exec);
    run(&node, ask, streams).await.map_err(|error| Failure(error.chain()))
}

async fn run(node: &Arc<Node>, ask: streaming::Exec, streams: Streams) -> Result<i32> {
    let container = node.container(ask.container.as_str())?;
    // Both may have changed since the URL was made.
    require_running(&container)?;
    let slot = take_slot(node, &container)?;
    let mut stdout = ToClient::new(streams.stdout, streams.gone.clone());
    let mut stderr = ToClient::new(streams.stderr, streams.gone.clone());
    let bounds = Bounds { gone: streams.gone, deadline: None };
    let ends = Ends {
        stdin: streams.stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        resize: ask.tty.then_some(streams.resize),
    };
    // It cannot outlive the daemon that holds its client's connection.
    let ask = Ask { container: &container, cmd: &ask.command, tty: ask.tty, until: 0, slot };
    let exit = run_exec(node, ask, ends, &bounds).await;
    // A child of the command may hold them open still.
    stdout.ended().await;
    stderr.ended().await;
    Ok(i32::try_from(exit?.code).unwrap_or(i32::MAX))
}

/// Output that a client reads: no faster is it read here.
struct ToClient {
    /// None when nobody asked for it, or has closed it: then it is read and discarded, as by `cat >/dev/null`.
    sink: Option<Box<dyn Sink>>,
    gone: CancellationToken,
    /// Its memory is used again as soon as the client has what was in it.
    buffer: BytesMut,
    room: Room,
}

impl ToClient {
    fn new(sink: Option<Box<dyn Sink>>, gone: CancellationToken) -> Self {
        Self { sink, gone, buffer: BytesMut::new(), room: Room::default() }
    }
}

impl Target for ToClient {
    async fn room(&mut self) {
        self.room.make(&mut self.buffer);
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        &mut self.buffer
    }

    async fn filled(&mut self) {
        self.room.filled(self.buffer.len());
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
