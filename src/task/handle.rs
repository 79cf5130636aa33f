//! A containerd task from the point of view of the verbs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::CreateRequest;
use super::state::{State, Want};
use crate::containerd::{Containerd, Error, Exit, Kind, Result};
use crate::mutex::Mutex;

/// Identifies a task, or a command in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Name {
    /// The container's id.
    pub(super) id: String,
    /// The command's id in the container's task; empty for the container's first process.
    pub(super) exec: String,
}

/// The published state of a task.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) pid: u32,
    pub(super) started: bool,
    pub(super) exit: Option<Exit>,
    /// Why the task could not be created or started, or how it was lost.
    pub(super) failure: Option<Error>,
}

/// A containerd task, or a command in one, from the point of view of the verbs. Its owner carries out what they
/// request.
pub struct Task {
    pub(super) name: Name,
    pub(super) containerd: Option<Containerd>,
    pub(super) want: watch::Sender<Want>,
    pub(super) create_request: Mutex<Option<CreateRequest>>,
    pub(super) view: watch::Sender<View>,
    /// Set when the reply to a call that changes the task was lost: containerd may then have forgotten the shim.
    pub(super) shim_unknown: Arc<AtomicBool>,
}

impl Task {
    /// A placeholder without a task and without an owner.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            name: Name::default(),
            containerd: None,
            want: watch::Sender::new(Want::Ended),
            create_request: Mutex::new(None),
            view: watch::Sender::new(View { state: State::Gone, pid: 0, started: false, exit: None, failure: None }),
            shim_unknown: Arc::default(),
        })
    }

    /// Creates the task. Returns the host PID of its first process, which waits to be started.
    ///
    /// # Errors
    /// An error of containerd. The owner ends what the attempt has left: see [`Task::gone`].
    pub async fn create(&self, request: CreateRequest) -> Result<u32> {
        *self.create_request.lock() = Some(request);
        self.want(Want::Created);
        self.reached("create task", |view| !matches!(view.state, State::Absent | State::Unknown | State::Unresponsive))
            .await
    }

    /// Starts the created task. Returns its host PID. If the reply was lost but the process was started, this succeeds.
    ///
    /// # Errors
    /// An error of containerd. The owner ends what the attempt has left: see [`Task::gone`].
    pub async fn start(&self) -> Result<u32> {
        self.want(Want::Runs);
        self.reached("start task", |view| view.started).await
    }

    /// Ends the task if it exists, and deletes it. SIGKILL is repeated as often as necessary.
    pub fn end(&self) {
        self.want(Want::Ended);
    }

    /// Sends a signal if there may be a process.
    ///
    /// # Errors
    /// Any error of the shim. It is no error if there is no process.
    pub async fn signal(&self, signal: u32) -> Result<()> {
        let state = self.view.borrow().state;
        match &self.containerd {
            Some(containerd) if state.may_live() => containerd.kill_task(&self.name.id, &self.name.exec, signal).await,
            _ => Ok(()),
        }
    }

    /// Closes the shim's write end of the process's stdin.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no process.
    pub async fn close_stdin(&self) -> Result<()> {
        self.containerd("close stdin of task")?.close_stdin(&self.name.id, &self.name.exec).await
    }

    /// Sets the size of the process's terminal to that of the client: columns, rows.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no process.
    pub async fn resize_terminal(&self, size: (u16, u16)) -> Result<()> {
        self.containerd("resize terminal of task")?.resize_terminal(&self.name.id, &self.name.exec, size).await
    }

    /// Updates the resources of the task's cgroup, as [`Containerd::update_task`] does.
    ///
    /// # Errors
    /// [`Kind::Other`] with runc's message if the kernel refuses a value.
    pub async fn update(&self, resources: Vec<u8>, annotations: HashMap<String, String>) -> Result<()> {
        self.containerd("update task")?.update_task(&self.name.id, resources, annotations).await
    }

    fn containerd(&self, operation: &'static str) -> Result<&Containerd> {
        let none = || Error::new(operation, &self.name.id, Kind::NotFound, "the container has no task");
        self.containerd.as_ref().ok_or_else(none)
    }

    /// Waits until it is known how the process ended.
    ///
    /// # Errors
    /// Why the task was not created or started, or that it was lost.
    pub async fn exit(&self) -> Result<Exit> {
        let mut view = self.view.subscribe();
        let view = view.wait_for(|view| view.exit.is_some() || view.failure.is_some() || view.state == State::Gone);
        let Ok(view) = view.await.map(|view| view.clone()) else { return Err(self.ended_early("wait for task")) };
        match (view.exit, view.failure) {
            (Some(exit), _) => Ok(exit),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(self.ended_early("wait for task")),
        }
    }

    /// Resolves when no process of the task is alive.
    pub async fn process_ended(&self) {
        // This cannot fail: `self` has the sender.
        let _ = self.view.subscribe().wait_for(|view| !view.state.may_live()).await;
    }

    /// Resolves when containerd has no such task any more, and the observer has been notified of that.
    pub async fn gone(&self) {
        let _ = self.view.subscribe().wait_for(|view| view.state == State::Gone).await;
    }

    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.view.borrow().state == State::Gone
    }

    /// Ends the owner's pause before its next try.
    pub fn retry_now(&self) {
        self.want(Want::Nothing);
    }

    /// Whether the task may have a live process that is not to be ended.
    #[must_use]
    pub fn may_live_on(&self) -> bool {
        !self.is_gone() && *self.want.borrow() != Want::Ended
    }

    fn want(&self, more: Want) {
        // Notifies the owner even if nothing more is wanted than before.
        self.want.send_modify(|want| *want = more.max(*want));
    }

    async fn reached(&self, operation: &'static str, reached: impl Fn(&View) -> bool) -> Result<u32> {
        let mut view = self.view.subscribe();
        let known = view.wait_for(|view| reached(view) || view.failure.is_some() || view.state == State::Gone);
        let Ok(view) = known.await.map(|view| view.clone()) else { return Err(self.ended_early(operation)) };
        match view.failure {
            Some(failure) => Err(failure),
            None if reached(&view) && view.state != State::Gone => Ok(view.pid),
            None => Err(self.ended_early(operation)),
        }
    }

    fn ended_early(&self, operation: &'static str) -> Error {
        Error::new(operation, &self.name.id, Kind::FailedPrecondition, "the task was ended first")
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("view", &*self.view.borrow()).finish_non_exhaustive()
    }
}
