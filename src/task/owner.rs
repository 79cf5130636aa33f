//! The main loop of an owner: one background task of ours for each containerd task. Its calls to containerd are in
//! `acts.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::handle::{Name, Task, View};
use super::pace::Pace;
use super::program::Program;
use super::state::{Act, Event, State, Want};
use super::{ExitHints, Health, Machine, TaskObserver};
use crate::containerd::{Containerd, Error, Exit, Result};
use crate::mutex::Mutex;
use crate::tasks::Tasks;
use crate::telemetry::{Stage, Verb, during};

/// What every owner needs.
#[derive(Clone)]
pub struct Owner {
    pub containerd: Containerd,
    /// Whether containerd responds.
    pub health: Health,
    /// Exits that were reported by containerd's event stream.
    pub hints: Arc<ExitHints>,
    /// Where owners are spawned.
    pub tasks: Tasks,
}

impl Owner {
    /// Starts the owner of a container's task, before the task is created, or for one that an earlier daemon created.
    /// `shim_unknown` is set when the reply to a call that changes the task was lost.
    pub fn own(
        &self,
        id: &str,
        machine: Machine,
        shim_unknown: Arc<AtomicBool>,
        observer: impl TaskObserver,
    ) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: String::new() }, machine, shim_unknown, observer)
    }

    /// Like `own`, for a command in a container's task.
    pub fn own_exec(&self, id: &str, exec: &str, machine: Machine, observer: impl TaskObserver) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: exec.to_owned() }, machine, Arc::default(), observer)
    }

    fn start(
        &self,
        name: Name,
        machine: Machine,
        shim_unknown: Arc<AtomicBool>,
        observer: impl TaskObserver,
    ) -> Arc<Task> {
        let exit = match machine.state() {
            State::Ended(exit) => Some(exit),
            _ => None,
        };
        let view =
            View { state: machine.state(), pid: machine.pid(), started: machine.was_started(), exit, failure: None };
        let task = Arc::new(Task {
            name,
            containerd: Some(self.containerd.clone()),
            want: watch::Sender::new(Want::Nothing),
            create_request: Mutex::new(None),
            view: watch::Sender::new(view),
            shim_unknown,
        });
        let driver = Driver {
            owner: self.clone(),
            want: task.want.subscribe(),
            task: Arc::clone(&task),
            machine,
            observer,
            pace: Pace::new(self.health.clone()),
            wait: None,
            lost_reply_error: None,
            start_was_lost: false,
            init: None,
            was_away: false,
            finished: false,
        };
        self.tasks.background(driver.run());
        task
    }
}

/// The state of a running owner.
pub(super) struct Driver<F> {
    pub(super) owner: Owner,
    pub(super) task: Arc<Task>,
    pub(super) want: watch::Receiver<Want>,
    pub(super) machine: Machine,
    pub(super) observer: F,
    pace: Pace,
    /// The Tasks.Wait in flight, if any; there is at most one.
    pub(super) wait: Option<BoxFuture<'static, Result<Exit>>>,
    /// The error by which a reply was lost.
    pub(super) lost_reply_error: Option<Error>,
    /// Whether the process may have been started although the reply was lost.
    pub(super) start_was_lost: bool,
    /// The program that the process ran before it was started.
    pub(super) init: Option<Program>,
    /// Whether containerd was away at any time since the owner started.
    pub(super) was_away: bool,
    finished: bool,
}

impl<F: TaskObserver> Driver<F> {
    async fn run(mut self) {
        while !self.finished {
            if self.pace.is_failing() {
                // While tries fail, the task and the current stage are shown in `pontoon top`.
                let tasks = self.owner.tasks.clone();
                tasks.run_named(Verb::SettleTask, self.task.name.id.clone(), self.run_until_success().boxed()).await;
            } else {
                self.step().await;
            }
        }
    }

    async fn run_until_success(&mut self) {
        while self.pace.is_failing() && !self.finished {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let want = *self.want.borrow_and_update();
        match self.machine.next(want) {
            Act::Rest => {
                // This cannot fail: the task has the sender.
                let _ = self.want.changed().await;
            }
            Act::Watch => self.watch().await,
            // Boxed: an owner rests or watches nearly all the time, and would otherwise hold the 14 KiB of this
            // future's state all that time.
            act => self.act(act).boxed().await,
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Rest | Act::Watch => {}
            Act::Create => during(Stage::TaskCreate, self.create()).await,
            Act::Query => during(Stage::TaskGet, self.query()).await,
            Act::Start => during(Stage::TaskStart, self.start()).await,
            Act::ReportStart => {
                self.observer.started(self.machine.pid()).await;
                self.progress(Event::StartReported);
            }
            Act::Kill => during(Stage::Kill, self.kill()).await,
            Act::ReportExit(exit) => match self.observer.ended(exit).await {
                Ok(()) => self.progress(Event::ExitReported),
                Err(error) => {
                    during(Stage::Record, self.back_off("the exit cannot be written to the record yet", &error)).await;
                }
            },
            Act::Delete => during(Stage::TaskDelete, self.delete()).await,
            Act::Finish => {
                self.observer.gone().await;
                self.finished = true;
                self.task.view.send_modify(|view| view.state = State::Gone);
            }
        }
    }

    /// Logs the problem, and waits before the next try.
    pub(super) async fn back_off(&mut self, what: &'static str, error: &Error) {
        self.was_away |= error.is_away();
        if self.pace.should_log(error) {
            tracing::warn!(exec = self.exec_id(), %error, "{what}");
        } else {
            tracing::debug!(exec = self.exec_id(), %error, "{what}");
        }
        tokio::select! {
            () = self.pace.pause() => {}
            _ = self.want.changed() => {}
        }
    }

    /// The id of the command, for log lines, which have the container's id as a key. `None` for a container's task.
    pub(super) fn exec_id(&self) -> Option<&str> {
        Some(self.task.name.exec.as_str()).filter(|exec| !exec.is_empty())
    }

    pub(super) fn progress(&mut self, event: Event) {
        self.pace.reset();
        self.apply(event);
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.machine.apply(event);
        let machine = &self.machine;
        self.task.view.send_modify(|view| {
            view.state = machine.state();
            view.pid = machine.pid();
            view.started = machine.was_started();
            if let State::Ended(exit) = machine.state() {
                view.exit = Some(exit);
            }
            // Only `Act::Finish` publishes `Gone`, after the observer has been notified.
            if view.state == State::Gone {
                view.state = State::Reported;
            }
        });
    }

    pub(super) fn fail(&self, error: Error) {
        self.task.view.send_modify(|view| view.failure = view.failure.take().or(Some(error)));
    }

    /// Records that a call which changes the task may or may not have been carried out.
    pub(super) fn note_lost_reply(&mut self, error: &Error) {
        if error.is_away() {
            self.was_away = true;
            self.task.shim_unknown.store(true, Ordering::Release);
        }
    }
}
