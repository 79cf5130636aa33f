//! The main loop of an owner: one background task of ours for each containerd task. Its calls to containerd are in
//! `acts.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::handle::{Name, Task, View};
use super::pace::Pace;
use super::program::Program;
use super::state::{Act, Event, State, Want};
use super::{ExitHints, Follow, Health, Machine};
use crate::containerd::{Containerd, Error, Exit, Result};
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
    /// `doubt` is set when the reply to a call that changes the task was lost.
    pub fn own(&self, id: &str, machine: Machine, doubt: Arc<AtomicBool>, follower: impl Follow) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: String::new() }, machine, doubt, follower)
    }

    /// Like `own`, for a command in a container's task.
    pub fn own_exec(&self, id: &str, exec: &str, machine: Machine, follower: impl Follow) -> Arc<Task> {
        self.start(Name { id: id.to_owned(), exec: exec.to_owned() }, machine, Arc::default(), follower)
    }

    fn start(&self, name: Name, machine: Machine, doubt: Arc<AtomicBool>, follower: impl Follow) -> Arc<Task> {
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
            start_was_lost: false,
            init: None,
            was_away: false,
            left: false,
        };
        self.tasks.background(work.run());
        task
    }
}

/// The state of a running owner.
pub(super) struct Work<F> {
    pub(super) owner: Owner,
    pub(super) task: Arc<Task>,
    pub(super) want: watch::Receiver<Want>,
    pub(super) machine: Machine,
    pub(super) follower: F,
    pace: Pace,
    /// The Tasks.Wait in flight, if any; there is at most one.
    pub(super) wait: Option<BoxFuture<'static, Result<Exit>>>,
    /// The error by which a reply was lost.
    pub(super) lost: Option<Error>,
    /// Whether the process may have been started although the reply was lost.
    pub(super) start_was_lost: bool,
    /// The program that the process ran before it was started.
    pub(super) init: Option<Program>,
    /// Whether containerd was away at any time since the owner started.
    pub(super) was_away: bool,
    left: bool,
}

impl<F: Follow> Work<F> {
    async fn run(mut self) {
        while !self.left {
            if self.pace.is_troubled() {
                // While tries fail, the task and the current stage are shown in `pontoon top`.
                let tasks = self.owner.tasks.clone();
                tasks.named(Verb::SettleTask, self.task.name.id.clone(), self.through_trouble().boxed()).await;
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
                // This cannot fail: the task has the sender.
                let _ = self.want.changed().await;
            }
            Act::Watch => self.watch().await,
            // In a box: nearly all of a task's life its owner rests or watches, and the state of these would be 14 KiB of each.
            act => self.act(act).boxed().await,
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Rest | Act::Watch => {}
            Act::Create => during(Stage::TaskCreate, self.create()).await,
            Act::Ask => during(Stage::TaskGet, self.ask()).await,
            Act::Start => during(Stage::TaskStart, self.start()).await,
            Act::TellStart => {
                self.follower.started(self.machine.pid()).await;
                self.progress(Event::StartTold);
            }
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

    /// Logs the problem, and waits before the next try.
    pub(super) async fn trouble(&mut self, what: &'static str, error: &Error) {
        self.was_away |= error.is_away();
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

    pub(super) fn progress(&mut self, event: Event) {
        self.pace.reset();
        self.take(event);
    }

    pub(super) fn take(&mut self, event: Event) {
        self.machine.on(event);
        let machine = &self.machine;
        self.task.view.send_modify(|view| {
            view.state = machine.state();
            view.pid = machine.pid();
            view.started = machine.was_started();
            if let State::Ended(exit) = machine.state() {
                view.exit = Some(exit);
            }
            // Only `Act::Leave` publishes `Gone`, after the follower has been notified.
            if view.state == State::Gone {
                view.state = State::Told;
            }
        });
    }

    pub(super) fn fail(&self, error: Error) {
        self.task.view.send_modify(|view| view.failure = view.failure.take().or(Some(error)));
    }

    /// Records that a call which changes the task may or may not have been carried out.
    pub(super) fn doubt(&mut self, error: &Error) {
        if error.is_away() {
            self.was_away = true;
            self.task.doubt.store(true, Ordering::Release);
        }
    }
}
