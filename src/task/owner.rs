//! The owner at work: one background task of ours for each containerd task. What it asks of containerd is in `acts.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use futures_util::FutureExt;
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
    /// containerd.
    pub containerd: Containerd,
    /// Whether it answers.
    pub health: Health,
    /// Exits that its event stream told of.
    pub hints: Arc<ExitHints>,
    /// Where owners run.
    pub tasks: Tasks,
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

/// An owner's work.
pub(super) struct Work<F> {
    pub(super) owner: Owner,
    pub(super) task: Arc<Task>,
    pub(super) want: watch::Receiver<Want>,
    pub(super) machine: Machine,
    pub(super) follower: F,
    pace: Pace,
    /// The Tasks.Wait that runs; one at a time.
    pub(super) wait: Option<BoxFuture<'static, Result<Exit>>>,
    /// How an answer was lost.
    pub(super) lost: Option<Error>,
    /// Whether a start may have happened of which nobody knows.
    pub(super) start_was_lost: bool,
    /// What the process ran before it was started.
    pub(super) init: Option<Program>,
    /// Whether containerd was away since the owner began.
    pub(super) was_away: bool,
    left: bool,
}

impl<F: Follow> Work<F> {
    async fn run(mut self) {
        while !self.left {
            if self.pace.is_troubled() {
                // What does not succeed is seen in `pontoon top`, with what it is about.
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
                // The sender lives in the task.
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

    /// Says what is in the way, and waits before the next try.
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
            // Told only by `Act::Leave`, when its object knows it too.
            if view.state == State::Gone {
                view.state = State::Told;
            }
        });
    }

    pub(super) fn fail(&self, error: Error) {
        self.task.view.send_modify(|view| view.failure = view.failure.take().or(Some(error)));
    }

    /// Takes in that a call which changes the task may or may not have been carried out.
    pub(super) fn doubt(&mut self, error: &Error) {
        if error.is_away() {
            self.was_away = true;
            self.task.doubt.store(true, Ordering::Release);
        }
    }
}
