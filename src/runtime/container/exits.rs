//! How a container ended: log complete → exit written → told → task deleted. The owner of its task ([`crate::task`]) says
//! when; this is what is done then.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::container::started::Started;
use crate::container::{Container, Event, Exit, Reason, State, exit_extension};
use crate::containerd;
use crate::runtime::container::oom;
use crate::runtime::container::start_container::note_start;
use crate::runtime::{Node, now};
use crate::task::{Follow, Machine, Pace, UNSEEN};

/// How long the log may take to be complete before the exit is told (rulings.md 5): kubelet
/// reads the log's tail as soon as it sees EXITED.
const LOG_BARRIER: Duration = Duration::from_secs(1);

/// A container, as the owner of its task tells it what becomes of it.
struct OfContainer {
    node: Arc<Node>,
    container: Arc<Container>,
    /// How it ended, judged once: a write may be repeated, and what is written must not change.
    judged: OnceLock<Exit>,
}

impl Follow for OfContainer {
    async fn started(&self, pid: u32) {
        let at = now();
        note_start(&self.node, &self.container, Started::At(at));
        // From Starting this is always allowed.
        let _ = self.node.happened(&self.container, Event::Started { pid, at });
    }

    async fn ended(&self, exit: containerd::Exit) -> containerd::Result<()> {
        let container = &self.container;
        if self.judged.get().is_none()
            && let Some(streams) = container.streams()
            && !streams.barrier(LOG_BARRIER).await
        {
            tracing::warn!(container = %container.id(), "the log was not complete 1 s after the exit");
        }
        let exit = self.judged.get_or_init(|| self.node.judge(container, exit));
        match self.node.persist_exit(container, exit).await {
            Err(error) if !container.is_being_removed() => return Err(error),
            // With its record goes the exit.
            Ok(()) | Err(_) => {}
        }
        tracing::info!(container = %container.id(), code = exit.code, reason = exit.reason.as_str(), "container ended");
        // Denied only when a removal has begun, which keeps the exit it knows.
        let _ = self.node.happened(container, Event::Ended(exit.clone()));
        Ok(())
    }

    async fn unseen(&self, late: bool) -> Option<containerd::Exit> {
        Some(self.node.hints.of_a_lost_task(self.container.id().as_str(), late).await.unwrap_or(UNSEEN))
    }

    async fn gone(&self) {
        let container = &self.container;
        if let Some(streams) = container.streams() {
            streams.close().await;
        }
        container.set_streams(None);
        container.set_oom_watch(None);
        if let Err(error) = self.node.streams.remove(&self.node.config.state, container.id()) {
            tracing::warn!(container = %container.id(), %error, "its FIFOs could not be removed");
        }
    }
}

impl Node {
    /// Gives a container's task an owner. The task before must be gone.
    pub(crate) fn own_task(self: &Arc<Self>, container: &Arc<Container>, machine: Machine) {
        let sandbox = self.store.sandbox(container.sandbox());
        let doubt = sandbox.map(|sandbox| sandbox.doubt()).unwrap_or_default();
        let follower =
            OfContainer { node: Arc::clone(self), container: Arc::clone(container), judged: OnceLock::new() };
        container.set_task(self.owner.own(container.id().as_str(), machine, doubt, follower));
    }

    /// An event of a task's exit. Kept only for tasks of ours: others are not waited for.
    pub fn hint_exit(&self, id: String, exit: containerd::Exit) {
        let alive = self.store.containers.get(&id).is_some_and(|container| container.state().is_alive());
        if alive || self.store.sandboxes.get(&id).is_some() {
            self.hints.insert(id, exit);
        }
    }

    /// Writes how a container ended that has no task: until it is written, or the container is removed.
    pub(crate) async fn persist_exit_until_written(&self, container: &Container, exit: &Exit) {
        let mut pace = Pace::new(self.health.clone());
        while let Err(error) = self.persist_exit(container, exit).await
            && !container.is_being_removed()
        {
            if pace.is_news() {
                tracing::warn!(container = %container.id(), %error, "its exit cannot be written yet");
            }
            pace.pause().await;
        }
    }

    /// The exit is in containerd's record before the task goes, so that it survives a reboot.
    pub(crate) async fn persist_exit(&self, container: &Container, exit: &Exit) -> containerd::Result<()> {
        let (extensions, field) = exit_extension(exit);
        let id = container.id().to_string();
        let record = containerd::Container { id, extensions, ..containerd::Container::default() };
        self.containerd.update_container(record, &[&field]).await
    }

    fn judge(&self, container: &Container, exit: containerd::Exit) -> Exit {
        let code = i32::try_from(exit.code).unwrap_or(i32::MAX);
        let (reason, message) =
            if exit == UNSEEN { (Reason::Unknown, String::new()) } else { oom::judge(code, self.oom_kills(container)) };
        let started_at = match container.state() {
            State::Running { started_at, .. } => started_at,
            State::Created | State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. } => 0,
        };
        // A clock that was set back must not make a container end before it started.
        let finished_at = if exit.at == 0 { now() } else { exit.at }.max(started_at);
        Exit { code, started_at, finished_at, reason, message }
    }
}
