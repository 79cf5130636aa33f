//! The Tasks service: processes under a shim.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::types::v1 as task;

use super::connect::Channel;
use super::error::not_found_is_ok;
use super::{Any, Containerd, Error, Kind, Mount, Result, nanoseconds};

/// containerd's type name of an OCI process spec.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// containerd's type name of OCI resources.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Where a process's standard streams go. An empty path means /dev/null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// A FIFO to read from.
    pub stdin: String,
    /// A FIFO or a log URI.
    pub stdout: String,
    /// A FIFO or a log URI; empty with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// The parameters of a new task.
#[derive(Clone, Debug, Default)]
pub struct CreateTask {
    /// The container's id.
    pub id: String,
    /// Mounts that make up its root; empty when the spec's root path is already a directory.
    pub rootfs: Vec<Mount>,
    pub stdio: Stdio,
    pub options: Option<Any>,
}

/// The parameters of a further process in a running task.
#[derive(Clone, Debug)]
pub struct ExecTask {
    /// The container's id.
    pub id: String,
    /// The process's id within the task.
    pub exec_id: String,
    /// The OCI process as JSON.
    pub process: Vec<u8>,
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal killed it.
    pub code: u32,
    /// Nanoseconds since the epoch.
    pub at: i64,
}

/// A task or exec process as containerd sees it.
#[derive(Clone, Debug)]
pub struct Process {
    /// The container's id.
    pub id: String,
    /// Host PID; 0 when there is none.
    pub pid: u32,
    pub status: ProcessStatus,
    /// The exit of a stopped process.
    pub exit: Exit,
    /// The streams that it was created with.
    pub stdio: Stdio,
}

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessStatus {
    /// Created, but not started.
    Created,
    /// Running, or paused.
    Running,
    /// Ended, but not deleted.
    Stopped,
    /// The shim does not answer.
    Unknown,
}

impl Containerd {
    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.unary.channel()).max_decoding_message_size(super::MESSAGE_LIMIT)
    }

    /// Creates a task: the shim, the root's mounts, the namespaces and the init process, which waits to be started.
    /// Returns the host PID of the init process.
    ///
    /// # Errors
    /// [`super::Kind::AlreadyExists`] when the task exists; [`super::Kind::Other`] with runc's own message.
    pub async fn create_task(&self, task: CreateTask) -> Result<u32> {
        let id = task.id.clone();
        let request = pb::CreateTaskRequest {
            container_id: task.id,
            rootfs: task.rootfs.into_iter().map(Into::into).collect(),
            stdin: task.stdio.stdin,
            stdout: task.stdio.stdout,
            stderr: task.stdio.stderr,
            terminal: task.stdio.terminal,
            options: task.options.map(Into::into),
            ..pb::CreateTaskRequest::default()
        };
        let reply = self.tasks().create(self.request(request)).await;
        Ok(reply.map_err(|status| self.error("create task", &id, &status))?.into_inner().pid)
    }

    /// Starts a created task, or with an exec id a process in it. Returns its host PID.
    ///
    /// # Errors
    /// [`super::Kind::FailedPrecondition`] when it was started before; [`super::Kind::Other`] with runc's own message,
    /// for example that an executable does not exist.
    pub async fn start_task(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = pb::StartRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let reply = self.tasks().start(self.request(request)).await;
        let failed = |status: tonic::Status| match is_past_its_start(status.message()) {
            true => Error::new("start task", id, Kind::FailedPrecondition, status.message()),
            false => self.error("start task", id, &status),
        };
        Ok(reply.map_err(failed)?.into_inner().pid)
    }

    /// Resolves when the task, or with an exec id a process in it, has ended.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the task or process does not exist; [`super::Kind::Unavailable`] when the
    /// connection was lost: wait again.
    pub async fn wait_task(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let request = pb::WaitRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let channel = if exec_id.is_empty() { self.watch.clone() } else { self.commands.channel() };
        let reply = TasksClient::new(channel).wait(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("wait for task", id, &status))?.into_inner();
        Ok(Exit { code: reply.exit_status, at: nanoseconds(reply.exited_at) })
    }

    /// Sends a signal to a task's init process, or with an exec id to that process. Succeeds if the process has already
    /// ended.
    ///
    /// # Errors
    /// Any error of the shim.
    pub async fn kill_task(&self, id: &str, exec_id: &str, signal: u32) -> Result<()> {
        let request = pb::KillRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned(), signal, all: false };
        let reply = self.tasks().kill(self.request(request)).await;
        not_found_is_ok(reply.map(drop).map_err(|status| self.error("kill task", id, &status)))
    }

    /// Deletes a stopped task. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// [`super::Kind::Other`] while it runs.
    pub async fn delete_task(&self, id: &str) -> Result<Option<Exit>> {
        let request = pb::DeleteTaskRequest { container_id: id.to_owned() };
        let reply = self.tasks().delete(self.request(request)).await;
        let exit = reply.map(|reply| exit(&reply.into_inner()));
        not_found_is_ok(exit.map_err(|status| self.error("delete task", id, &status)))
    }

    /// Adds a process to a running task, to be started with [`Containerd::start_task`].
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the task does not exist.
    pub async fn exec_task(&self, exec: ExecTask) -> Result<()> {
        let id = exec.id.clone();
        let request = pb::ExecProcessRequest {
            container_id: exec.id,
            stdin: exec.stdio.stdin,
            stdout: exec.stdio.stdout,
            stderr: exec.stdio.stderr,
            terminal: exec.stdio.terminal,
            spec: Some(prost_types::Any { type_url: PROCESS_TYPE.to_owned(), value: exec.process }),
            exec_id: exec.exec_id,
        };
        let reply = self.tasks().exec(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("exec in task", &id, &status))
    }

    /// Deletes a process that [`Containerd::exec_task`] added and that has ended.
    ///
    /// # Errors
    /// [`super::Kind::Other`] while it runs.
    pub async fn delete_exec(&self, id: &str, exec_id: &str) -> Result<Option<Exit>> {
        let request = pb::DeleteProcessRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let reply = self.tasks().delete_process(self.request(request)).await;
        let exit = reply.map(|reply| exit(&reply.into_inner()));
        not_found_is_ok(exit.map_err(|status| self.error("delete exec of task", id, &status)))
    }

    /// Closes the stdin of a task or of a process in it.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the task or process does not exist.
    pub async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<()> {
        let request = pb::CloseIoRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned(), stdin: true };
        let reply = self.tasks().close_io(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("close stdin of task", id, &status))
    }

    /// Sets the terminal of a task, or with an exec id of a process in it, to the size of the client's terminal.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the task or process does not exist.
    pub async fn resize_terminal(&self, id: &str, exec_id: &str, (width, height): (u16, u16)) -> Result<()> {
        let request = pb::ResizePtyRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width: width.into(),
            height: height.into(),
        };
        let reply = self.tasks().resize_pty(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("resize terminal of task", id, &status))
    }

    /// Reads the state of a task, or with an exec id of a process in it.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the task or process does not exist.
    pub async fn get_task(&self, id: &str, exec_id: &str) -> Result<Process> {
        let request = pb::GetRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let reply = self.tasks().get(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("get task", id, &status))?;
        Ok(process(reply.into_inner().process.unwrap_or_default()))
    }

    /// Lists all tasks of the namespace.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] while containerd does not respond.
    pub async fn list_tasks(&self) -> Result<Vec<Process>> {
        let reply = self.tasks().list(self.request(pb::ListTasksRequest::default())).await;
        let reply = reply.map_err(|status| self.error("list tasks of", self.namespace(), &status))?;
        Ok(reply.into_inner().tasks.into_iter().map(process).collect())
    }

    /// Changes the cgroup of a running task: `resources` is OCI LinuxResources as JSON. The annotations go to the shim.
    ///
    /// # Errors
    /// [`super::Kind::Other`] with runc's own message when the kernel refuses a value.
    pub async fn update_task(&self, id: &str, resources: Vec<u8>, annotations: HashMap<String, String>) -> Result<()> {
        let resources = prost_types::Any { type_url: RESOURCES_TYPE.to_owned(), value: resources };
        let request = pb::UpdateTaskRequest { container_id: id.to_owned(), resources: Some(resources), annotations };
        let reply = self.tasks().update(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("update task", id, &status))
    }
}

/// Whether a Start was refused because the process had been started before. containerd gives these errors the code
/// Unknown, so the messages of runc and of its shim are compared.
fn is_past_its_start(message: &str) -> bool {
    [
        "cannot start an already running container",
        "cannot start a container that has stopped",
        "container process is already dead",
        "cannot start a running process",
        "cannot start a paused process",
        "cannot start a stopped process",
    ]
    .iter()
    .any(|words| message.ends_with(words))
}

fn exit(reply: &pb::DeleteResponse) -> Option<Exit> {
    Some(Exit { code: reply.exit_status, at: nanoseconds(reply.exited_at) })
}

fn process(process: task::Process) -> Process {
    let status = match task::Status::try_from(process.status) {
        Ok(task::Status::Created) => ProcessStatus::Created,
        Ok(task::Status::Running | task::Status::Paused | task::Status::Pausing) => ProcessStatus::Running,
        Ok(task::Status::Stopped) => ProcessStatus::Stopped,
        Ok(task::Status::Unknown) | Err(_) => ProcessStatus::Unknown,
    };
    Process {
        // A list has the task's id in `id`; a response to Get also has it in `container_id`.
        id: process.id,
        pid: process.pid,
        status,
        exit: Exit { code: process.exit_status, at: nanoseconds(process.exited_at) },
        stdio: Stdio {
            stdin: process.stdin,
            stdout: process.stdout,
            stderr: process.stderr,
            terminal: process.terminal,
        },
    }
}
