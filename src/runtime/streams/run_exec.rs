//! One command in a running container, from its FIFOs to its deletion. Exec and ExecSync differ only in where its
//! streams end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::container::io::{DRAIN, Directory, ExecIo, Shape, Target, TerminalInput};
use crate::containerd::{self, ExecTask, Exit};
use crate::ids::{ContainerId, ExecId};
use crate::mutex::Mutex;
use crate::runtime::large::unreadable;
use crate::runtime::record_size::check_process;
use crate::runtime::threads::block_in_place_if_large;
use crate::runtime::{Error, Node, Result};
use crate::slots::Slot;
use crate::spec;
use crate::streaming::{Input, Size};
use crate::task::{CreateRequest, Machine, Task, TaskObserver};
use crate::telemetry::{Stage, during};

/// How long a response waits for the deletion, which goes on without it: a shim delays a Delete by 10 s when a child
/// that the command left behind holds its output.
const DELETE_PATIENCE: Duration = Duration::from_secs(1);

/// The command to run.
pub(crate) struct CommandRequest<'a> {
    pub(crate) container: &'a Container,
    pub(crate) cmd: &'a [String],
    pub(crate) tty: bool,
    /// See [`ExecId::living_until`].
    pub(crate) until: u64,
    /// Held until the process is deleted.
    pub(crate) slot: Slot,
}

/// Where the command's streams end.
pub(crate) struct ExecStreams<'a, O, E> {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: &'a mut O,
    pub(crate) stderr: &'a mut E,
    pub(crate) resize: Option<mpsc::Receiver<Size>>,
}

/// What ends a command that does not end by itself.
pub(crate) struct ExecBounds {
    /// Cancelled when the client has left.
    pub(crate) gone: CancellationToken,
    /// When its time is over, and how long it had.
    pub(crate) deadline: Option<(Instant, Duration)>,
}

impl ExecBounds {
    /// Resolves when the command must be killed; returns the reason.
    pub(crate) async fn over(&self, id: &ContainerId) -> Error {
        let time = async {
            match self.deadline {
                Some((at, limit)) => {
                    tokio::time::sleep_until(at).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.gone.cancelled() => Error::ClientGone { id: id.to_string() },
            limit = time => Error::ExecTimeout { id: id.to_string(), limit },
        }
    }
}

/// Runs a command until it ends, or exceeds its bounds and is killed. In every case it is deleted.
pub(crate) async fn run_exec<O, E>(
    node: &Arc<Node>,
    request: CommandRequest<'_>,
    streams: ExecStreams<'_, O, E>,
    bounds: &ExecBounds,
) -> Result<Exit>
where
    O: Target,
    E: Target,
{
    let id = request.container.id();
    // A start is mostly runc's processor time, for which pods are not charged. So starts need slots: a burst of one pod
    // waits.
    let start_slot = tokio::select! {
        biased;
        start_slot = node.limits.exec_starts.take(request.container.sandbox().as_str(), "") => start_slot,
        why = bounds.over(id) => return Err(why),
    };
    let exec_id = ExecId::living_until(request.until);
    let shape = Shape { tty: request.tty, stdin: streams.stdin.is_some() };
    let directory = node.exec_directory(id, &exec_id);
    let (mut io, stdio, directory) =
        ExecIo::prepare(&directory, shape).map_err(|source| Error::Io { id: id.to_string(), source })?;
    let whole = node.whole_spec(request.container).await?;
    let process = process(&whole.json, request.cmd, request.tty)?;
    check_process(&process)?;
    let exec = ExecTask { id: id.to_string(), exec_id: exec_id.to_string(), process, stdio };
    let resources =
        ExecResources { terminal_input: io.terminal_input(), _directory: Some(directory), _slot: Some(request.slot) };
    let process = Command::own(node, id.clone(), &exec_id, Machine::default(), resources);
    let started = process.start(exec).await;
    drop((start_slot, whole));
    let result = match started {
        Ok(()) => during(Stage::Command, process.follow(io, streams, bounds, request.tty)).await,
        Err(error) => Err(error),
    };
    during(Stage::TaskDelete, process.end()).await;
    result
}

/// The OCI process of a command in a container. Of the container's spec, only the process is read.
fn process(spec: &[u8], cmd: &[String], tty: bool) -> Result<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Spec {
        process: Option<oci_spec::runtime::Process>,
    }
    block_in_place_if_large(spec.len() + cmd.iter().map(String::len).sum::<usize>(), || {
        let spec: Spec = serde_json::from_slice(spec).map_err(|error| unreadable("decode", error))?;
        let process = spec::exec_process(spec.process.unwrap_or_default(), cmd, tty);
        serde_json::to_vec(&process).map_err(|error| unreadable("encode", error))
    })
}

/// A command in a container's task.
pub(crate) struct Command {
    node: Arc<Node>,
    pub(crate) id: ContainerId,
    pub(crate) task: Arc<Task>,
    /// Cancelled when the process may be deleted: then a shim closes its output.
    finished: CancellationToken,
}

/// What is held until a command's process is deleted.
#[derive(Default)]
pub(crate) struct ExecResources {
    /// See [`ExecIo::terminal_input`].
    pub(crate) terminal_input: Option<TerminalInput>,
    /// The directory of the FIFOs, by which recovery finds the process.
    pub(crate) _directory: Option<Directory>,
    pub(crate) _slot: Option<Slot>,
}

/// Updates a command when the owner of its process reports an event.
struct ExecObserver {
    node: Arc<Node>,
    finished: CancellationToken,
    resources: Mutex<ExecResources>,
}

impl TaskObserver for ExecObserver {
    async fn ended(&self, _: Exit) -> containerd::Result<()> {
        self.finished.cancelled().await;
        Ok(())
    }

    async fn lost_exit(&self, _: bool) -> Option<Exit> {
        None
    }

    async fn gone(&self) {
        let resources = std::mem::take(&mut *self.resources.lock());
        if let Some(input) = resources.terminal_input {
            self.node.tasks.background(input.release());
        }
    }
}

impl Command {
    /// Gives the process of a command an owner.
    pub(crate) fn own(
        node: &Arc<Node>,
        id: ContainerId,
        exec_id: &ExecId,
        machine: Machine,
        resources: ExecResources,
    ) -> Self {
        let finished = CancellationToken::new();
        let observer =
            ExecObserver { node: Arc::clone(node), finished: finished.clone(), resources: Mutex::new(resources) };
        let task = node.owner.own_exec(id.as_str(), exec_id.as_str(), machine, observer);
        Self { node: Arc::clone(node), id, task, finished }
    }

    async fn start(&self, exec: ExecTask) -> Result<()> {
        during(Stage::TaskCreate, self.task.create(CreateRequest::Exec(Box::new(exec)))).await?;
        during(Stage::TaskStart, self.task.start()).await?;
        Ok(())
    }

    async fn follow<O, E>(
        &self,
        mut io: ExecIo,
        streams: ExecStreams<'_, O, E>,
        bounds: &ExecBounds,
        tty: bool,
    ) -> Result<Exit>
    where
        O: Target,
        E: Target,
    {
        io.started();
        let exited = CancellationToken::new();
        let output = io.copy(streams.stdout, streams.stderr, &exited, DRAIN);
        let input = join(self.feed(&io, streams.stdin, tty), self.resize(streams.resize));
        tokio::pin!(output, input);
        let (mut complete, mut fed) = (None, false);
        let exit = loop {
            tokio::select! {
                exit = self.task.exit() => break exit?,
                // `end` kills the process afterwards.
                why = bounds.over(&self.id) => return Err(why),
                all = &mut output, if complete.is_none() => complete = Some(all),
                _ = &mut input, if !fed => fed = true,
            }
        };
        exited.cancel();
        if complete.is_none() {
            tokio::select! {
                all = &mut output => complete = Some(all),
                () = bounds.gone.cancelled() => {}
            }
        }
        if complete != Some(true) {
            tracing::debug!("a child of a command still holds its output open");
        }
        Ok(exit)
    }

    /// Copies the client's input. At its end, the process's stdin is closed too, unless it is a terminal: a shim would
    /// hang that up, and the process with it, while users of kubectl expect to come back to it.
    async fn feed(&self, io: &ExecIo, input: Option<Input>, tty: bool) {
        let Some(mut input) = input else { return };
        let mut pipe = match io.open_stdin().await {
            Ok(Some(pipe)) => pipe,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "stdin of a command cannot be had"),
        };
        while let Some(bytes) = input.recv().await {
            // The process has closed its end.
            if pipe.write_all(&bytes).await.is_err() {
                break;
            }
        }
        drop((pipe, input));
        if tty {
            return;
        }
        // The shim has a write end open, too.
        if let Err(error) = self.task.close_stdin().await {
            tracing::debug!(%error, "stdin of a command could not be closed");
        }
    }

    async fn resize(&self, sizes: Option<mpsc::Receiver<Size>>) {
        let Some(mut sizes) = sizes else { return };
        while let Some(size) = latest(&mut sizes).await {
            if let Err(error) = self.task.resize_terminal(size).await {
                tracing::debug!(%error, "a terminal could not be resized");
            }
        }
    }

    /// Ends and deletes the process. What takes long goes on in an operation of its own.
    pub(crate) async fn end(self) {
        self.finished.cancel();
        self.task.end();
        if tokio::time::timeout(DELETE_PATIENCE, self.task.gone()).await.is_err() {
            // As an operation, so that a drain waits for it.
            let task = self.task;
            self.node.tasks.operation(async move { task.gone().await });
        }
    }
}

/// The latest size that the client has sent; `None` when it sends no more. A size without width or height is ignored.
pub(crate) async fn latest(sizes: &mut mpsc::Receiver<Size>) -> Option<(u16, u16)> {
    loop {
        let mut size = sizes.recv().await?;
        while let Ok(newer) = sizes.try_recv() {
            size = newer;
        }
        if size.width > 0 && size.height > 0 {
            return Some((size.width, size.height));
        }
    }
}
