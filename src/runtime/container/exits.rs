//! The end of a container: log complete → exit written → exit reported → task deleted. The owner of the task
//! ([`crate::task`]) decides when; this module does the work.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::container::started::Started;
use crate::container::{Container, Event, Exit, Reason, State, exit_extension};
use crate::containerd;
use crate::log_keys::call_with_keys;
use crate::runtime::container::oom;
use crate::runtime::container::start_container::write_start_time;
use crate::runtime::{Node, now};
use crate::task::{Machine, Pace, TaskObserver, UNSEEN};

/// How long to wait for a complete log before the exit is reported (docs/rulings.md 5): kubelet reads the end of the
/// log as soon as it sees EXITED.
const LOG_BARRIER: Duration = Duration::from_secs(1);

/// Updates a container when the owner of its task reports an event.
struct ContainerObserver {
    node: Arc<Node>,
    container: Arc<Container>,
    /// The exit, judged only once: a write may be repeated, and its contents must not change.
    judged: OnceLock<Exit>,
}

impl TaskObserver for ContainerObserver {
    async fn started(&self, pid: u32) {
        let at = now();
        write_start_time(&self.node, &self.container, Started::At(at));
        // Always allowed in the state Starting.
        let _ = self.node.apply_event(&self.container, Event::Started { pid, at });
    }

    async fn ended(&self, exit: containerd::Exit) -> containerd::Result<()> {
        let container = &self.container;
        if self.judged.get().is_none()
            && let Some(streams) = container.streams()
            && !streams.barrier(LOG_BARRIER).await
        {
            tracing::warn!("the log was not complete 1 s after the exit");
        }
        let exit = self.judged.get_or_init(|| self.node.exit_of(container, exit));
        match self.node.persist_exit(container, exit).await {
            Err(error) if !container.is_being_removed() => return Err(error),
            // Ignored if the container is being removed: its record is deleted with the exit in it.
            Ok(()) | Err(_) => {}
        }
        tracing::info!(code = exit.code, reason = exit.reason.as_str(), "container ended");
        // Always allowed here. If a removal has begun, the container keeps the exit that it knows.
        let _ = self.node.apply_event(container, Event::Ended(exit.clone()));
        Ok(())
    }

    async fn lost_exit(&self, late: bool) -> Option<containerd::Exit> {
        Some(self.node.owner.hints.of_a_lost_task(self.container.id().as_str(), late).await.unwrap_or(UNSEEN))
    }

    async fn gone(&self) {
        let container = &self.container;
        if let Some(streams) = container.streams() {
            streams.close().await;
        }
        container.set_streams(None);
        container.set_oom_watch(None);
        if let Err(error) = self.node.streams.remove(&self.node.config.state, container.id()) {
            tracing::warn!(%error, "its FIFOs could not be removed");
        }
    }
}

impl Node {
    /// Gives a container's task an owner. The previous task must be gone.
    pub(crate) fn own_task(self: &Arc<Self>, container: &Arc<Container>, machine: Machine) {
        let sandbox = self.store.sandbox(container.sandbox());
        let shim_unknown = sandbox.map(|sandbox| sandbox.shim_unknown_flag()).unwrap_or_default();
        let observer =
            ContainerObserver { node: Arc::clone(self), container: Arc::clone(container), judged: OnceLock::new() };
        // The owner outlives the operation that starts it.
        let keys = self.log_keys(container).clone();
        let own = || self.owner.own(container.id().as_str(), machine, shim_unknown, observer);
        container.set_task(call_with_keys(keys, own));
    }

    /// Stores a task's exit from containerd's event stream, if the task is ours: nothing waits for other exits.
    pub fn store_exit_hint(&self, id: String, exit: containerd::Exit) {
        let alive = self.store.containers.get(&id).is_some_and(|container| container.state().is_alive());
        if alive || self.store.sandboxes.get(&id).is_some() {
            self.owner.hints.insert(id, exit);
        }
    }

    /// Writes the exit of a container that has no task. Repeats this until it is written, or the container is removed.
    pub(crate) async fn persist_exit_until_written(&self, container: &Container, exit: &Exit) {
        let mut pace = Pace::new(self.availability.watch());
        while let Err(error) = self.persist_exit(container, exit).await
            && !container.is_being_removed()
        {
            if pace.should_log(&error) {
                tracing::warn!(%error, "the container's exit cannot be written yet");
            }
            pace.pause().await;
        }
    }

    /// Writes the exit to containerd's record. This happens before the task is deleted, so that the exit survives a
    /// reboot.
    pub(crate) async fn persist_exit(&self, container: &Container, exit: &Exit) -> containerd::Result<()> {
        let (extensions, field) = exit_extension(exit);
        let id = container.id().to_string();
        let record = containerd::Container { id, extensions, ..containerd::Container::default() };
        self.containerd.update_container(record, &[&field]).await
    }

    fn exit_of(&self, container: &Container, exit: containerd::Exit) -> Exit {
        let code = i32::try_from(exit.code).unwrap_or(i32::MAX);
        let (reason, message) = if exit == UNSEEN {
            (Reason::Unknown, String::new())
        } else {
            oom::reason_of(code, self.oom_kills(container))
        };
        let started_at = match container.state() {
            State::Running { started_at, .. } => started_at,
            State::Created | State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. } => 0,
        };
        // A container must not end before it started, even if the clock was set back.
        let finished_at = if exit.at == 0 { now() } else { exit.at }.max(started_at);
        Exit { code, started_at, finished_at, reason, message }
    }
}
