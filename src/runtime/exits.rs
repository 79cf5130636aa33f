//! How a process ended: one Tasks.Wait per task is the truth, the event stream a hint.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Node, now, oom, task};
use crate::container::{Container, Event, Exit, Reason, State, exit_extension};
use crate::containerd::{self, ProcessStatus};

/// How long the log may take to be complete before the exit is told (rulings.md 5): kubelet
/// reads the log's tail as soon as it sees EXITED.
const LOG_BARRIER: Duration = Duration::from_secs(1);
/// How long the event of a task that is gone may be late (rulings.md 11).
const LATE_EVENT: Duration = Duration::from_secs(1);
/// Between two looks at a containerd that is away.
const RETRY: Duration = Duration::from_millis(500);
/// The code of a process that nobody saw end.
const UNKNOWN: u32 = 255;

/// Exits that the event stream told of, until somebody asks. A dead shim's exit code is only there.
#[derive(Default)]
pub struct ExitHints(Mutex<HashMap<String, containerd::Exit>>);

impl ExitHints {
    /// Remembers an exit of a task that somebody waits for.
    pub fn insert(&self, id: String, exit: containerd::Exit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, exit);
    }

    /// Forgets an object that is removed: an event may come after whoever waited for it has gone.
    pub(super) fn forget(&self, id: &str) {
        let _ = self.take(id);
    }

    fn take(&self, id: &str) -> Option<containerd::Exit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

impl Node {
    /// An event of a task's exit. Kept only for tasks of ours: others are not waited for.
    pub fn hint_exit(&self, id: String, exit: containerd::Exit) {
        let alive = self.store.containers.get(&id).is_some_and(|container| container.state().is_alive());
        if alive || self.store.sandboxes.get(&id).is_some() {
            self.hints.insert(id, exit);
        }
    }

    /// The exit that a Tasks.Wait was for, whatever happened to the connection meanwhile.
    pub(super) async fn exit_of(&self, id: &str, first: containerd::Result<containerd::Exit>) -> containerd::Exit {
        let mut wait = first;
        loop {
            match wait {
                Ok(exit) => {
                    self.hints.take(id);
                    return exit;
                }
                Err(error) if error.is_not_found() => return self.exit_of_a_lost_task(id).await,
                Err(error) => tracing::debug!(task = id, %error, "waiting again"),
            }
            tokio::time::sleep(RETRY).await;
            wait = match self.containerd.get_task(id, "").await {
                Ok(process) if process.status == ProcessStatus::Stopped => Ok(process.exit),
                Ok(_) => self.containerd.wait_task(id, "").await,
                Err(error) => Err(error),
            };
        }
    }

    async fn exit_of_a_lost_task(&self, id: &str) -> containerd::Exit {
        let until = tokio::time::Instant::now() + LATE_EVENT;
        loop {
            if let Some(exit) = self.hints.take(id) {
                return exit;
            }
            if tokio::time::Instant::now() >= until {
                return containerd::Exit { code: UNKNOWN, at: 0 };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Follows a running container to its end: log complete → exit written → told → task deleted.
    pub(super) fn watch_container<W>(self: &Arc<Self>, container: &Arc<Container>, wait: W)
    where
        W: Future<Output = containerd::Result<containerd::Exit>> + Send + 'static,
    {
        let (node, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.background(async move {
            let exit = node.exit_of(container.id().as_str(), wait.await).await;
            node.settle_exit(&container, exit).await;
        });
    }

    /// Writes an observed exit, tells of it, and cleans up behind it.
    pub(super) async fn settle_exit(self: &Arc<Self>, container: &Arc<Container>, exit: containerd::Exit) {
        if let Some(streams) = container.streams()
            && !streams.barrier(LOG_BARRIER).await
        {
            tracing::warn!(container = %container.id(), "the log was not complete 1 s after the exit");
        }
        let exit = self.judge(container, exit);
        self.persist_exit(container, &exit).await;
        tracing::info!(container = %container.id(), code = exit.code, reason = exit.reason.as_str(), "container ended");
        // Denied only when a removal has begun, which keeps the exit it knows.
        let _ = self.happened(container, Event::Ended(exit));
        let (node, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.background(async move { node.clean_task(&container).await });
    }

    /// Deletes the task of an ended container and closes its streams.
    pub(super) async fn clean_task(&self, container: &Container) {
        task::delete(&self.containerd, container.id().as_str()).await;
        if let Some(streams) = container.streams() {
            streams.close().await;
        }
        container.set_streams(None);
        container.set_oom_watch(None);
        self.remove_streams(container);
        container.set_cleaned(true);
    }

    /// Removes the FIFOs of a container whose task is gone.
    pub(super) fn remove_streams(&self, container: &Container) {
        if let Err(error) = self.streams.remove(&self.config.state, container.id()) {
            tracing::warn!(container = %container.id(), %error, "its FIFOs could not be removed");
        }
    }

    /// The exit is in containerd's record before the task goes, so that it survives a reboot.
    pub(super) async fn persist_exit(&self, container: &Container, exit: &Exit) {
        let (extensions, field) = exit_extension(exit);
        let record =
            containerd::Container { id: container.id().to_string(), extensions, ..containerd::Container::default() };
        loop {
            match self.containerd.update_container(record.clone(), &[&field]).await {
                Ok(()) => return,
                Err(error) if task::is_away(&error) => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    tracing::error!(container = %container.id(), %error, "its exit could not be written");
                    return;
                }
            }
        }
    }

    fn judge(&self, container: &Container, exit: containerd::Exit) -> Exit {
        let code = i32::try_from(exit.code).unwrap_or(i32::MAX);
        let (reason, message) = if exit.code == UNKNOWN && exit.at == 0 {
            (Reason::Unknown, String::new())
        } else {
            oom::judge(code, self.oom_kills(container))
        };
        let started_at = match container.state() {
            State::Running { started_at, .. } => started_at,
            State::Created | State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. } => 0,
        };
        // A clock that was set back must not make a container end before it started.
        let finished_at = if exit.at == 0 { now() } else { exit.at }.max(started_at);
        Exit { code, started_at, finished_at, reason, message }
    }
}
