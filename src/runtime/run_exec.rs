//! One command in a running container, from its FIFOs to its deletion. Exec and ExecSync differ only in where its
//! streams end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, maybe_done, select};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::slots::Slot;
use super::{Error, Node, Result, task};
use crate::container::Container;
use crate::container::io::{DRAIN, Directory, ExecIo, Shape, Target, TerminalInput};
use crate::containerd::{ExecTask, Exit};
use crate::ids::{ContainerId, ExecId};
use crate::spec;
use crate::streaming::{Input, Size};
use crate::telemetry::{Stage, during};

/// How often a process is killed and deleted.
const DESTROY_TRIES: u32 = 6;
/// How long it has to be gone the first time; then four times as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How long a killed process may take to be seen to have ended.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer waits for the deletion, which goes on without it: a shim keeps a Delete for 10 s when a child
/// that the command left behind holds its output.
const DELETE_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to wait, while containerd is away.
const RETRY: Duration = Duration::from_millis(500);

/// What is run.
pub(super) struct Ask<'a> {
    pub(super) container: &'a Container,
    pub(super) cmd: &'a [String],
    pub(super) tty: bool,
    /// As [`ExecId::living_until`] has it.
    pub(super) until: u64,
    /// Held until the process is deleted.
    pub(super) slot: Slot,
}

/// Where its streams end.
pub(super) struct Ends<'a, O, E> {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: &'a mut O,
    pub(super) stderr: &'a mut E,
    pub(super) resize: Option<mpsc::Receiver<Size>>,
}

/// What ends a command that does not end by itself.
pub(super) struct Bounds {
    /// Its client has gone.
    pub(super) gone: CancellationToken,
    /// When its time is over, and how long it had.
    pub(super) deadline: Option<(Instant, Duration)>,
}

impl Bounds {
    /// Resolves when the command is to be killed; says why.
    pub(super) async fn over(&self, id: &ContainerId) -> Error {
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

/// Runs a command to its end, or to that of its bounds: then it is killed. Whatever happens, it is deleted.
pub(super) async fn run_exec<O, E>(
    node: &Arc<Node>,
    ask: Ask<'_>,
    ends: Ends<'_, O, E>,
    bounds: &Bounds,
) -> Result<Exit>
where
    O: Target,
    E: Target,
{
    let id = ask.container.id();
    let exec_id = ExecId::living_until(ask.until);
    let shape = Shape { tty: ask.tty, stdin: ends.stdin.is_some() };
    let directory = node.exec_directory(id, &exec_id);
    let (mut io, stdio, directory) =
        ExecIo::prepare(&directory, shape).map_err(|source| Error::Io { id: id.to_string(), source })?;
    let process = process(ask.container, ask.cmd, ask.tty)?;
    let exec = ExecTask { id: id.to_string(), exec_id: exec_id.to_string(), process, stdio };
    let process = Process {
        node: Arc::clone(node),
        id: id.clone(),
        exec_id,
        terminal_input: io.terminal_input(),
        _directory: Some(directory),
        _slot: Some(ask.slot),
    };
    let result = match during(Stage::TaskCreate, node.containerd.exec_task(exec)).await {
        Ok(()) => during(Stage::Command, process.follow(io, ends, bounds, ask.tty)).await,
        Err(error) => Err(error.into()),
    };
    // A reply that was lost may have been a success, so there may be a process after any error.
    during(Stage::TaskDelete, process.end()).await;
    result
}

/// The OCI process of a command in a container.
fn process(container: &Container, cmd: &[String], tty: bool) -> Result<Vec<u8>> {
    let failed = |operation, path: &str, error: serde_json::Error| Error::System {
        operation,
        path: path.to_owned(),
        source: error.into(),
    };
    let spec: oci_spec::runtime::Spec =
        serde_json::from_slice(&container.spec()).map_err(|error| failed("decode", "OCI spec", error))?;
    serde_json::to_vec(&spec::exec_process(&spec, cmd, tty)).map_err(|error| failed("encode", "process", error))
}

/// A process that was added to a container's task.
pub(super) struct Process {
    pub(super) node: Arc<Node>,
    pub(super) id: ContainerId,
    pub(super) exec_id: ExecId,
    /// As [`ExecIo::terminal_input`] has it.
    pub(super) terminal_input: Option<TerminalInput>,
    /// Last, after the process is deleted: recovery finds the processes by their directories.
    pub(super) _directory: Option<Directory>,
    pub(super) _slot: Option<Slot>,
}

impl Process {
    async fn follow<O, E>(&self, mut io: ExecIo, ends: Ends<'_, O, E>, bounds: &Bounds, tty: bool) -> Result<Exit>
    where
        O: Target,
        E: Target,
    {
        let wait = maybe_done(self.exit());
        tokio::pin!(wait);
        self.start(wait.as_mut()).await?;
        io.started();
        let exited = CancellationToken::new();
        let output = io.copy(ends.stdout, ends.stderr, &exited, DRAIN);
        let input = join(self.feed(&io, ends.stdin, tty), self.resize(ends.resize));
        tokio::pin!(output, input);
        let (mut complete, mut fed) = (None, false);
        let exit = loop {
            tokio::select! {
                () = &mut wait => break wait.as_mut().take_output().expect("it is done")?,
                why = bounds.over(&self.id) => {
                    self.kill().await;
                    // So that it can be deleted at once; its output is nobody's any more.
                    let _ = tokio::time::timeout(KILL_PATIENCE, wait).await;
                    return Err(why);
                }
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
            tracing::debug!(container = %self.id, "a command left somebody behind who holds its output");
        }
        Ok(exit)
    }

    /// Starts the process, and waits for its end from before that: it may be gone with its container's whole task as
    /// soon as it runs, and then nobody can be asked any more.
    async fn start(&self, wait: impl Future<Output = ()> + Unpin) -> Result<()> {
        let start = self.node.containerd.start_task(self.id.as_str(), self.exec_id.as_str());
        let started = pin!(during(Stage::TaskStart, start));
        // Whoever is polled first asks first.
        let started = match select(wait, started).await {
            Either::Left(((), started)) => started.await,
            Either::Right((started, _)) => started,
        };
        Ok(started.map(drop)?)
    }

    /// The process's own end. A containerd that is away says nothing about it.
    pub(super) async fn exit(&self) -> Result<Exit> {
        loop {
            match self.node.containerd.wait_task(self.id.as_str(), self.exec_id.as_str()).await {
                Err(error) if task::is_away(&error) => tokio::time::sleep(RETRY).await,
                ended => return Ok(ended?),
            }
        }
    }

    /// Copies the client's input. Its end is the process's, unless there is a terminal: a shim hangs that up, and the
    /// process with it, while kubectl's users expect to come back to it.
    async fn feed(&self, io: &ExecIo, input: Option<Input>, tty: bool) {
        let Some(mut input) = input else { return };
        let mut pipe = match io.open_stdin().await {
            Ok(Some(pipe)) => pipe,
            Ok(None) => return,
            Err(error) => return tracing::warn!(container = %self.id, %error, "stdin of a command cannot be had"),
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
        // The shim holds a write end too.
        if let Err(error) = self.node.containerd.close_stdin(self.id.as_str(), self.exec_id.as_str()).await {
            tracing::debug!(container = %self.id, %error, "stdin of a command could not be closed");
        }
    }

    async fn resize(&self, sizes: Option<mpsc::Receiver<Size>>) {
        let Some(mut sizes) = sizes else { return };
        while let Some(size) = latest(&mut sizes).await {
            let resized = self.node.containerd.resize_terminal(self.id.as_str(), self.exec_id.as_str(), size).await;
            if let Err(error) = resized {
                tracing::debug!(container = %self.id, %error, "a terminal could not be resized");
            }
        }
    }

    pub(super) async fn kill(&self) {
        let killed = self.node.containerd.kill_task(self.id.as_str(), self.exec_id.as_str(), task::SIGKILL).await;
        if let Err(error) = killed {
            tracing::debug!(container = %self.id, exec = %self.exec_id, %error, "a command could not be killed yet");
        }
    }

    /// Deletes the process; what takes long goes on by itself.
    pub(super) async fn end(mut self) {
        let node = Arc::clone(&self.node);
        let mut deletion = Box::pin(async move {
            self.destroy().await;
            if let Some(input) = self.terminal_input.take() {
                self.node.tasks.background(input.release());
            }
        });
        if tokio::time::timeout(DELETE_PATIENCE, &mut deletion).await.is_err() {
            node.tasks.operation(deletion);
        }
    }

    /// Deletes the process, killed if it has not ended.
    async fn destroy(&self) {
        let (containerd, id, exec_id) = (&self.node.containerd, self.id.as_str(), self.exec_id.as_str());
        let mut pause = FIRST_PAUSE;
        for _ in 0..DESTROY_TRIES {
            let Err(error) = containerd.delete_exec(id, exec_id).await else { return };
            tracing::debug!(container = id, exec = exec_id, %error, "an exec process is not deleted yet");
            self.kill().await;
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        tracing::warn!(container = id, exec = exec_id, "an exec process could not be deleted");
    }
}

/// The latest size that the client told of; `None` when it tells no more. A size without width or height is none.
pub(super) async fn latest(sizes: &mut mpsc::Receiver<Size>) -> Option<(u16, u16)> {
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
