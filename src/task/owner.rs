//! The owner at work: one background task of ours for each containerd task.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::pace::Pace;
use super::state::{Act, Event, State, Want};
use super::{ExitHints, Follow, Health, Machine, Make, SIGKILL};
use crate::containerd::{Containerd, Error, Exit, Kind, ProcessStatus, Result};
use crate::tasks::Tasks;
use crate::telemetry::{Stage, Verb, during};

/// How often a SIGKILL is repeated until the process is gone.
const KILL_AGAIN: Duration = Duration::from_secs(10);

/// What every owner needs.
#[derive(Clone)]
pub struct Owner {
    /// containerd.
    pub containerd: Containerd,
    /// Whether it answers.
    pub health: Health,
    /// Exits that its event stream told of.
    pub hints: Arc<ExitHints>,
    /// Where owners run.
    pub tasks: Tasks,
}

/// What a task is called.
#[derive(Clone, Debug, Default)]
struct Name {
    /// The container's id.
    id: String,
    /// The command's id in the container's task; empty for the container's first process.
    exec: String,
}

/// What is known of a task.
#[derive(Clone, Debug)]
struct View {
    state: State,
    pid: u32,
    started: bool,
    exit: Option<Exit>,
    /// Why it could not be made or started, or how it was lost.
    failure: Option<Error>,
}

/// A containerd task, or a command in one, as verbs see it. What is asked of it is done by its owner.
pub struct Task {
    name: Name,
    containerd: Option<Containerd>,
    want: watch::Sender<Want>,
    make: Mutex<Option<Make>>,
    view: watch::Sender<View>,
    /// Set when an answer about a change was lost: then containerd may have forgotten a shim.
    doubt: Arc<AtomicBool>,
}

impl Task {
    /// No task, and no owner.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            name: Name::default(),
            containerd: None,
            want: watch::Sender::new(Want::Over),
            make: Mutex::new(None),
            view: watch::Sender::new(View {
                state: State::Gone,
                pid: 0,
                started: false,
                exit: None,
                failure: None,
            }),
            doubt: Arc::default(),
        })
    }

    /// Makes it; gives the host PID of its first process, which waits to be started.
    ///
    /// # Errors
    /// containerd's. What it has left is ended by the owner: see [`Task::gone`].
    pub async fn make(&self, make: Make) -> Result<u32> {
        *self.make.lock().unwrap_or_else(PoisonError::into_inner) = Some(make);
        self.want(Want::Made);
        self.reached("create task", |view| !matches!(view.state, State::Absent | State::Unsure | State::Mute)).await
    }

    /// Starts what was made; gives its host PID. A start whose answer was lost and that has happened is a start.
    ///
    /// # Errors
    /// containerd's. What it has left is ended by the owner: see [`Task::gone`].
    pub async fn start(&self) -> Result<u32> {
        self.want(Want::Runs);
        self.reached("start task", |view| view.started).await
    }

    /// Ends whatever there is of it, and deletes it: SIGKILL, as often as it takes.
    pub fn end(&self) {
        self.want(Want::Over);
    }

    /// Sends a signal, if there may be a process.
    ///
    /// # Errors
    /// Whatever the shim answers. That there is no process is no error.
    pub async fn signal(&self, signal: u32) -> Result<()> {
        let state = self.view.borrow().state;
        match &self.containerd {
            Some(containerd) if state.may_live() => containerd.kill_task(&self.name.id, &self.name.exec, signal).await,
            _ => Ok(()),
        }
    }

    /// Closes the shim's write end of its stdin.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no process.
    pub async fn close_stdin(&self) -> Result<()> {
        self.containerd("close stdin of task")?.close_stdin(&self.name.id, &self.name.exec).await
    }

    /// Tells its terminal how large the client's is: columns, rows.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no process.
    pub async fn resize_terminal(&self, size: (u16, u16)) -> Result<()> {
        self.containerd("resize terminal of task")?.resize_terminal(&self.name.id, &self.name.exec, size).await
    }

    /// Changes its cgroup, as [`Containerd::update_task`] has it.
    ///
    /// # Errors
    /// [`Kind::Other`] with runc's own words when the kernel refuses a value.
    pub async fn update(&self, resources: Vec<u8>, annotations: HashMap<String, String>) -> Result<()> {
        self.containerd("update task")?.update_task(&self.name.id, resources, annotations).await
    }

    fn containerd(&self, operation: &'static str) -> Result<&Containerd> {
        let none = || Error::new(operation, &self.name.id, Kind::NotFound, "it has no task");
        self.containerd.as_ref().ok_or_else(none)
    }

    /// How its process ended, as soon as that is known.
    ///
    /// # Errors
    /// Why it was not made or started, or that it was lost.
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

    /// Resolves when no process of it lives.
    pub async fn over(&self) {
        // The sender lives in self.
        let _ = self.view.subscribe().wait_for(|view| !view.state.may_live()).await;
    }

    /// Resolves when containerd has no such task any more, and its object knows that.
    pub async fn gone(&self) {
        let _ = self.view.subscribe().wait_for(|view| view.state == State::Gone).await;
    }

    /// Whether containerd has no such task any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.view.borrow().state == State::Gone
    }

    /// What waits for its next try goes on at once.
    pub fn hurry(&self) {
        self.want(Want::Nothing);
    }

    /// Whether a process of it may live, and nobody wants it to end.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.is_gone() && *self.want.borrow() != Want::Over
    }

    fn want(&self, more: Want) {
        // Told also when it was wanted before.
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
        Error::new(operation, &self.name.id, Kind::FailedPrecondition, "it was ended before that")
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("view", &*self.view.borrow()).finish_non_exhaustive()
    }
}

impl Owner {
    /// Owns the task of a container, from before it is made, or since a former daemon made it. `doubt` is set when an
    /// answer about a change of it was lost.
    pub fn own(&self, id: &str, machine: Machine, doubt: Arc<AtomicBool>, follower: impl Follow) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: String::new() }, machine, doubt, follower)
    }

    /// The same for a command in a container's task.
    pub fn own_exec(&self, id: &str, exec: &str, machine: Machine, follower: impl Follow) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: exec.to_owned() }, machine, Arc::default(), follower)
    }

    fn start(&self, name: Name, machine: Machine, doubt: Arc<AtomicBool>, follower: impl Follow) -> Arc<Task> {
        let exit = match machine.state() {
            State::Ended(exit) => Some(exit),
            _ => None,
        };
        let view = View { state: machine.state(), pid: machine.pid(), started: machine.was_started(), exit, failure: None };
        let task = Arc::new(Task {
            name,
            containerd: Some(self.containerd.clone()),
            want: watch::Sender::new(Want::Nothing),
            make: Mutex::new(None),
            view: watch::Sender::new(view),
            doubt,
        });
        let work = Work {
            owner: self.clone(),
            want: task.want.subscribe(),
            task: Arc::clone(&task),
            machine,
            follower,
            pace: Pace::new(self.health.clone()),
            wait: None,
            lost: None,
            left: false,
        };
        self.tasks.background(work.run());
        task
    }
}

/// An owner's work.
struct Work<F> {
    owner: Owner,
    task: Arc<Task>,
    want: watch::Receiver<Want>,
    machine: Machine,
    follower: F,
    pace: Pace,
    /// The Tasks.Wait that runs; one at a time.
    wait: Option<BoxFuture<'static, Result<Exit>>>,
    /// How an answer was lost.
    lost: Option<Error>,
    left: bool,
}

impl<F: Follow> Work<F> {
    async fn run(mut self) {
        while !self.left {
            if self.pace.is_troubled() {
                // What does not succeed is seen in `pontoon top`, with what it is about.
                let tasks = self.owner.tasks.clone();
                tasks.named(Verb::SettleTask, self.task.name.id.clone(), self.through_trouble()).await;
            } else {
                self.step().await;
            }
        }
    }

    async fn through_trouble(&mut self) {
        while self.pace.is_troubled() && !self.left {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let want = *self.want.borrow_and_update();
        match self.machine.next(want) {
            Act::Rest => {
                // The sender lives in the task.
                let _ = self.want.changed().await;
            }
            Act::Create => during(Stage::TaskCreate, self.create()).await,
            Act::Ask => during(Stage::TaskGet, self.ask()).await,
            Act::Start => during(Stage::TaskStart, self.start()).await,
            Act::TellStart => {
                self.follower.started(self.machine.pid()).await;
                self.progress(Event::StartTold);
            }
            Act::Watch => self.watch().await,
            Act::Kill => during(Stage::Kill, self.kill()).await,
            Act::TellEnd(exit) => match self.follower.ended(exit).await {
                Ok(()) => self.progress(Event::EndTold),
                Err(error) => during(Stage::Record, self.trouble("its exit cannot be written yet", &error)).await,
            },
            Act::Delete => during(Stage::TaskDelete, self.delete()).await,
            Act::Leave => {
                self.follower.gone().await;
                self.left = true;
                self.task.view.send_modify(|view| view.state = State::Gone);
            }
        }
    }

    async fn create(&mut self) {
        let make = self.task.make.lock().unwrap_or_else(PoisonError::into_inner).take();
        let containerd = &self.owner.containerd;
        let made = match make {
            Some(Make::Task(task)) => containerd.create_task(*task).await,
            Some(Make::Exec(exec)) => containerd.exec_task(*exec).await.map(|()| 0),
            // What was made once is not made again.
            None => Err(self.lost.take().unwrap_or_else(|| self.missing_error("create task"))),
        };
        match made {
            Ok(pid) => self.progress(Event::Made { pid }),
            Err(error) => self.refused(error),
        }
    }

    async fn start(&mut self) {
        let (containerd, name) = (self.owner.containerd.clone(), self.task.name.clone());
        let mut started = pin!(containerd.start_task(&name.id, &name.exec));
        let mut wait = self.wait.take().unwrap_or_else(|| self.new_wait());
        let mut ended = None;
        // A command can be gone with its container's whole task as soon as it runs, so it is waited for from before that.
        let started = loop {
            tokio::select! {
                biased;
                exit = &mut wait, if ended.is_none() => ended = Some(exit),
                started = &mut started => break started,
            }
        };
        self.wait = Some(match ended {
            Some(exit) => std::future::ready(exit).boxed(),
            None => wait,
        });
        match started {
            Ok(pid) => self.progress(Event::Started { pid }),
            Err(error) => self.refused(error),
        }
    }

    async fn ask(&mut self) {
        let name = &self.task.name;
        match self.owner.containerd.get_task(&name.id, &name.exec).await {
            Ok(process) => {
                let Found { status, pid, exit } = Found::from(&process);
                self.take(Event::Found { status, pid, exit });
                if status == ProcessStatus::Unknown {
                    let error = Error::new("get task", &self.task.name.id, Kind::Other, "the shim does not answer");
                    self.trouble("its state is not known", &error).await;
                }
            }
            Err(error) if error.is_not_found() => self.look_in_the_list().await,
            Err(error) => {
                self.take(Event::Found { status: ProcessStatus::Unknown, pid: self.machine.pid(), exit: NO_EXIT });
                self.trouble("its state cannot be asked", &error).await;
            }
        }
    }

    /// Get has found nothing. A list is asked too, since it is made in another way; commands are in none.
    async fn look_in_the_list(&mut self) {
        if !self.task.name.exec.is_empty() {
            return self.missing().await;
        }
        match self.owner.containerd.list_tasks().await {
            Ok(all) => match all.iter().find(|process| process.id == self.task.name.id) {
                Some(process) => {
                    let Found { status, pid, exit } = Found::from(process);
                    self.take(Event::Found { status, pid, exit });
                }
                None => self.missing().await,
            },
            Err(error) => self.trouble("its state cannot be asked", &error).await,
        }
    }

    async fn watch(&mut self) {
        let mut wait = self.wait.take().unwrap_or_else(|| self.new_wait());
        let killed = self.machine.state() == State::Killed;
        let survived = async {
            if killed {
                tokio::time::sleep(KILL_AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            exit = &mut wait => match exit {
                Ok(exit) => self.progress(Event::Exited(exit)),
                Err(error) if error.is_not_found() => self.missing().await,
                Err(error) => {
                    self.take(Event::Lost);
                    self.trouble("its end cannot be waited for", &error).await;
                }
            },
            _ = self.want.changed() => self.wait = Some(wait),
            () = survived => {
                self.wait = Some(wait);
                self.take(Event::Survived);
                tracing::warn!(task = self.task.name.id, "still not dead {KILL_AGAIN:?} after SIGKILL");
            }
        }
    }

    async fn kill(&mut self) {
        match self.owner.containerd.kill_task(&self.task.name.id, &self.task.name.exec, SIGKILL).await {
            Ok(()) => self.take(Event::Killed),
            Err(error) => {
                self.take(Event::Lost);
                self.trouble("it cannot be killed yet", &error).await;
            }
        }
    }

    async fn delete(&mut self) {
        let name = &self.task.name;
        let deleted = match name.exec.as_str() {
            "" => self.owner.containerd.delete_task(&name.id).await,
            exec => self.owner.containerd.delete_exec(&name.id, exec).await,
        };
        match deleted {
            Ok(_) => self.progress(Event::Deleted),
            Err(error) => {
                self.doubt(&error);
                self.take(if error.kind() == Kind::FailedPrecondition { Event::Alive } else { Event::Lost });
                self.trouble("it cannot be deleted yet", &error).await;
            }
        }
    }

    /// A call that makes or starts has failed, or nobody knows whether it has.
    fn refused(&mut self, error: Error) {
        self.doubt(&error);
        if !error.is_away() {
            self.fail(error);
            self.take(Event::Refused);
        } else if self.task.name.exec.is_empty() {
            self.lost = Some(error);
            self.take(Event::Lost);
        } else {
            // Whoever runs a command is not kept waiting for a containerd that is away.
            self.fail(error);
            self.take(Event::GivenUp);
        }
    }

    /// containerd knows of no such task.
    async fn missing(&mut self) {
        let exit = if self.machine.is_to_be_told() { self.follower.unseen().await } else { None };
        match exit {
            Some(exit) => self.progress(Event::Exited(exit)),
            None => {
                let failure = self.lost.take().unwrap_or_else(|| self.missing_error("get task"));
                self.fail(failure);
                self.take(Event::Missing);
            }
        }
    }

    /// Says what is in the way, and waits before the next try.
    async fn trouble(&mut self, what: &'static str, error: &Error) {
        if self.pace.is_news() {
            tracing::warn!(task = self.task.name.id, exec = self.task.name.exec, %error, "{what}");
        } else {
            tracing::debug!(task = self.task.name.id, exec = self.task.name.exec, %error, "{what}");
        }
        tokio::select! {
            () = self.pace.pause() => {}
            _ = self.want.changed() => {}
        }
    }

    fn progress(&mut self, event: Event) {
        self.pace.reset();
        self.take(event);
    }

    fn take(&mut self, event: Event) {
        self.machine.on(event);
        let machine = &self.machine;
        self.task.view.send_modify(|view| {
            view.state = machine.state();
            view.pid = machine.pid();
            view.started = machine.was_started();
            if let State::Ended(exit) = machine.state() {
                view.exit = Some(exit);
            }
            // Told only by `Act::Leave`, when its object knows it too.
            if view.state == State::Gone {
                view.state = State::Told;
            }
        });
    }

    fn fail(&self, error: Error) {
        self.task.view.send_modify(|view| view.failure = view.failure.take().or(Some(error)));
    }

    fn doubt(&self, error: &Error) {
        if error.is_away() {
            self.task.doubt.store(true, Ordering::Release);
        }
    }

    fn new_wait(&self) -> BoxFuture<'static, Result<Exit>> {
        let (containerd, name) = (self.owner.containerd.clone(), self.task.name.clone());
        async move { containerd.wait_task(&name.id, &name.exec).await }.boxed()
    }

    fn missing_error(&self, operation: &'static str) -> Error {
        Error::new(operation, &self.task.name.id, Kind::NotFound, "containerd has no such task")
    }
}

/// Of a process that was not seen to end.
const NO_EXIT: Exit = Exit { code: 255, at: 0 };

/// What a question has found.
struct Found {
    status: ProcessStatus,
    pid: u32,
    exit: Exit,
}

impl From<&crate::containerd::Process> for Found {
    fn from(process: &crate::containerd::Process) -> Self {
        Self { status: process.status, pid: process.pid, exit: process.exit }
    }
}
