//! Tasks: processes under shims.

use std::collections::BTreeMap;
use std::sync::Arc;

use containerd_client::events::TaskExit;
use containerd_client::services::v1 as pb;
use containerd_client::to_any;
use containerd_client::types::Envelope;
use tonic::{Code, Status};

use super::process::{Exit, Process, Stdio};
use super::rpc::{Request, Response};
use super::{Inner, State, Task, already_exists, not_found, now, status};

pub(super) async fn serve(call: Request) -> Response {
    match call.method() {
        "Create" => call.unary(|m: &pb::CreateTaskRequest| m.container_id.clone(), create).await,
        "Start" => call.unary(|m: &pb::StartRequest| of(&m.container_id, &m.exec_id), start).await,
        "Kill" => call.unary(|m: &pb::KillRequest| of(&m.container_id, &m.exec_id), kill).await,
        "Wait" => call.unary_async(|m: &pb::WaitRequest| of(&m.container_id, &m.exec_id), wait).await,
        "Delete" => call.unary(|m: &pb::DeleteTaskRequest| m.container_id.clone(), delete).await,
        "Get" => call.unary(|m: &pb::GetRequest| of(&m.container_id, &m.exec_id), get).await,
        "List" => call.unary(|_: &pb::ListTasksRequest| String::new(), list).await,
        "Metrics" => call.unary(|m: &pb::MetricsRequest| m.filters.join(","), metrics).await,
        "Exec" => call.unary(|m: &pb::ExecProcessRequest| of(&m.container_id, &m.exec_id), exec).await,
        "DeleteProcess" => {
            call.unary(|m: &pb::DeleteProcessRequest| of(&m.container_id, &m.exec_id), delete_process).await
        }
        "CloseIO" => call.unary(|m: &pb::CloseIoRequest| of(&m.container_id, &m.exec_id), close_io).await,
        "ResizePty" => call.unary(size, resize_pty).await,
        "Update" => call.unary(|m: &pb::UpdateTaskRequest| m.container_id.clone(), update).await,
        _ => call.unimplemented(),
    }
}

/// The name of a process in the log of calls.
fn of(id: &str, exec: &str) -> String {
    if exec.is_empty() { id.to_owned() } else { format!("{id}/{exec}") }
}

impl State {
    /// Looks up the container's record first, as containerd does: without a record, a task is only found in a list.
    pub(super) fn process(&mut self, id: &str, exec: &str) -> Result<&mut Process, Status> {
        if !self.containers.contains_key(id) {
            return Err(not_found("container", id));
        }
        self.of_shim(id, exec)
    }

    fn of_shim(&mut self, id: &str, exec: &str) -> Result<&mut Process, Status> {
        let task = self.tasks.get_mut(id).ok_or_else(|| not_found("task", id))?;
        if exec.is_empty() {
            return Ok(&mut task.init);
        }
        task.execs.get_mut(exec).ok_or_else(|| not_found("exec", exec))
    }

    fn forget(&mut self, process: Process) {
        if !process.is_over() {
            self.never_ended.push(process.exit);
        }
    }
}

impl Inner {
    /// Ends a process and publishes its exit. No process outlives the first process of its container.
    pub(super) fn finish(&self, id: &str, exec: &str, code: u32) {
        let mut state = self.lock();
        let Ok(process) = state.of_shim(id, exec) else { return };
        if process.is_over() {
            return;
        }
        let (pid, exit) = (process.pid(), process.finish(code));
        if exec.is_empty() {
            let others = state.tasks.get_mut(id).into_iter().flat_map(|task| task.execs.values_mut());
            for other in others.filter(|other| !other.is_over()) {
                other.finish(137);
            }
        }
        let event = TaskExit {
            container_id: id.to_owned(),
            id: if exec.is_empty() { id } else { exec }.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: Some(exit.at),
        };
        self.publish("/tasks/exit", Some(to_any(&event)));
    }

    pub(super) fn publish(&self, topic: &str, event: Option<prost_types::Any>) {
        let envelope =
            Envelope { timestamp: Some(now()), namespace: "k8s.io".to_owned(), topic: topic.to_owned(), event };
        // Fails when there is no subscriber.
        let _ = self.events.send(envelope);
    }
}

fn create(fake: &Arc<Inner>, request: pb::CreateTaskRequest) -> Result<pb::CreateTaskResponse, Status> {
    let id = request.container_id;
    let mut state = fake.lock();
    let container = state.containers.get(&id).ok_or_else(|| not_found("container", &id))?;
    if state.tasks.contains_key(&id) {
        return Err(already_exists("task", &id));
    }
    if !container.sandbox.is_empty() && !state.tasks.contains_key(&container.sandbox) {
        return Err(not_found("shim of sandbox", &container.sandbox));
    }
    let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    let spec: serde_json::Value = serde_json::from_slice(spec).map_err(|error| invalid(&error))?;
    let stdio =
        Stdio { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
    let init = process(&state, &spec["process"], stdio)?;
    let pid = init.pid();
    state.tasks.insert(id.clone(), Task { init, execs: BTreeMap::new() });
    Ok(pb::CreateTaskResponse { container_id: id, pid })
}

/// Creates a process from an OCI process.
fn process(state: &State, process: &serde_json::Value, stdio: Stdio) -> Result<Process, Status> {
    let args = process["args"].as_array().into_iter().flatten();
    let args: Vec<String> = args.filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
    let number = state.tasks.values().map(|task| 1 + task.execs.len()).sum();
    Process::new(number, &args, stdio).map_err(|error| status(Code::Unknown, &format!("open streams: {error}")))
}

fn invalid(error: &serde_json::Error) -> Status {
    status(Code::InvalidArgument, &error.to_string())
}

fn start(fake: &Arc<Inner>, request: pb::StartRequest) -> Result<pb::StartResponse, Status> {
    let mut state = fake.lock();
    let process = state.process(&request.container_id, &request.exec_id)?;
    if process.is_running() {
        let words = if process.is_missed() { "an already running container" } else { "a running process" };
        return Err(status(Code::Unknown, &format!("OCI runtime start failed: cannot start {words}")));
    }
    if process.is_over() {
        return Err(status(Code::Unknown, "cannot start a stopped process"));
    }
    let pid = process.pid();
    if let Some(end) = process.start() {
        fake.finish_later(request.container_id, request.exec_id, end);
    } else if let Some(work) = process.work() {
        fake.work(request.container_id, request.exec_id, work);
    }
    Ok(pb::StartResponse { pid })
}

fn close_io(fake: &Arc<Inner>, request: pb::CloseIoRequest) -> Result<(), Status> {
    fake.lock().process(&request.container_id, &request.exec_id)?.close_stdin();
    Ok(())
}

/// The name of a resize in the log of calls.
fn size(request: &pb::ResizePtyRequest) -> String {
    format!("{} {}x{}", of(&request.container_id, &request.exec_id), request.width, request.height)
}

fn resize_pty(fake: &Arc<Inner>, request: pb::ResizePtyRequest) -> Result<(), Status> {
    fake.lock().process(&request.container_id, &request.exec_id).map(drop)
}

fn kill(fake: &Arc<Inner>, request: pb::KillRequest) -> Result<(), Status> {
    let (id, exec) = (request.container_id, request.exec_id);
    let code = {
        let mut state = fake.lock();
        let process = state.process(&id, &exec)?;
        if process.is_over() {
            return Err(not_found("process", &id));
        }
        // The first process exists from the task's creation on, a further process only from its start on.
        if !exec.is_empty() && !process.is_running() {
            return Err(status(Code::FailedPrecondition, "process not created"));
        }
        process.signal(request.signal)
    };
    if let Some(code) = code {
        fake.finish(&id, &exec, code);
    }
    Ok(())
}

async fn wait(fake: Arc<Inner>, request: pb::WaitRequest) -> Result<pb::WaitResponse, Status> {
    let mut exit = fake.lock().process(&request.container_id, &request.exec_id)?.exit.subscribe();
    // Fails when the process is dropped with its shim.
    let exit = exit.wait_for(Option::is_some).await.map(|exit| exit.clone());
    let Ok(Some(Exit { code, at })) = exit else { return Err(not_found("process", &request.container_id)) };
    Ok(pb::WaitResponse { exit_status: code, exited_at: Some(at) })
}

fn deleted(id: &str, process: &Process) -> pb::DeleteResponse {
    let process = process.describe(id, id);
    pb::DeleteResponse {
        id: process.id,
        pid: process.pid,
        exit_status: process.exit_status,
        exited_at: process.exited_at,
    }
}

/// A shim's error for this has no status code of its own.
fn still_runs() -> Status {
    status(Code::Unknown, "cannot delete a running process")
}

/// A task that was created and never started can be deleted too.
fn delete(fake: &Arc<Inner>, request: pb::DeleteTaskRequest) -> Result<pb::DeleteResponse, Status> {
    let id = request.container_id;
    let mut state = fake.lock();
    if state.process(&id, "")?.is_running() {
        return Err(still_runs());
    }
    let task = state.tasks.remove(&id).ok_or_else(|| not_found("task", &id))?;
    let reply = deleted(&id, &task.init);
    state.forget(task.init);
    Ok(reply)
}

fn delete_process(fake: &Arc<Inner>, request: pb::DeleteProcessRequest) -> Result<pb::DeleteResponse, Status> {
    let (id, exec) = (request.container_id, request.exec_id);
    let mut state = fake.lock();
    if state.process(&id, &exec)?.is_running() {
        return Err(still_runs());
    }
    let process = state.tasks.get_mut(&id).and_then(|task| task.execs.remove(&exec));
    let process = process.ok_or_else(|| not_found("exec", &exec))?;
    let reply = deleted(&exec, &process);
    state.forget(process);
    Ok(reply)
}

fn get(fake: &Arc<Inner>, request: pb::GetRequest) -> Result<pb::GetResponse, Status> {
    let (id, exec) = (request.container_id, request.exec_id);
    let name = if exec.is_empty() { &id } else { &exec };
    let process = fake.lock().process(&id, &exec)?.describe(&id, name);
    Ok(pb::GetResponse { process: Some(process) })
}

fn list(fake: &Arc<Inner>, _: pb::ListTasksRequest) -> Result<pb::ListTasksResponse, Status> {
    // As in containerd, the container's id is only in `id`.
    let tasks = fake.lock().tasks.iter().map(|(id, task)| task.init.describe("", id)).collect();
    Ok(pb::ListTasksResponse { tasks })
}

fn exec(fake: &Arc<Inner>, request: pb::ExecProcessRequest) -> Result<(), Status> {
    let (id, exec) = (request.container_id, request.exec_id);
    let mut state = fake.lock();
    if !state.process(&id, "")?.is_running() {
        return Err(status(Code::FailedPrecondition, "cannot exec in a stopped task"));
    }
    let spec = request.spec.unwrap_or_default().value;
    let spec: serde_json::Value = serde_json::from_slice(&spec).map_err(|error| invalid(&error))?;
    let stdio =
        Stdio { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
    let made = process(&state, &spec, stdio)?;
    let task = state.tasks.get_mut(&id).ok_or_else(|| not_found("task", &id))?;
    if task.execs.contains_key(&exec) {
        return Err(already_exists("exec", &exec));
    }
    task.execs.insert(exec, made);
    Ok(())
}

fn update(fake: &Arc<Inner>, request: pb::UpdateTaskRequest) -> Result<(), Status> {
    fake.lock().process(&request.container_id, "").map(drop)
}

/// `io.containerd.cgroups.v2.Metrics`, as far as the tests need it.
#[derive(Clone, PartialEq, prost::Message)]
struct Metrics {
    #[prost(message, optional, tag = "2")]
    cpu: Option<CpuStat>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CpuStat {
    #[prost(uint64, tag = "1")]
    usage_usec: u64,
}

/// The CPU usage of every task, in nanoseconds.
pub const CPU_OF_EVERY_TASK: u64 = 7_000_000;

fn metrics(fake: &Arc<Inner>, request: pb::MetricsRequest) -> Result<pb::MetricsResponse, Status> {
    let state = fake.lock();
    let wanted = |id: &&String| request.filters.iter().any(|filter| filter.strip_prefix("id==") == Some(id.as_str()));
    let metric = |id: &String| {
        let said = Metrics { cpu: Some(CpuStat { usage_usec: CPU_OF_EVERY_TASK / 1000 }) };
        let value = prost::Message::encode_to_vec(&said);
        let data = prost_types::Any { type_url: "io.containerd.cgroups.v2.Metrics".to_owned(), value };
        containerd_client::types::Metric { timestamp: Some(now()), id: id.clone(), data: Some(data) }
    };
    Ok(pb::MetricsResponse { metrics: state.tasks.keys().filter(wanted).map(metric).collect() })
}
