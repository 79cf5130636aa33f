//! Recovery at start: rebuilds the store from containerd's records and tasks. It never refuses a record. One that
//! cannot be read is listed as NOTREADY or UNKNOWN and can be removed; one of another client is left alone. Records are
//! read in pieces, whatever size a tenant has given them.

mod leftover_execs;
mod reattach;
mod shims;

use std::collections::HashMap;
use std::sync::Arc;

use crate::container::started::Started;
use crate::container::{self, Container, Exit, Reason, Root, SpecInMemory, State};
use crate::containerd::{self, Entry, Process, ProcessStatus};
use crate::log_keys::{LogKeys, add_keys, with_keys};
use crate::runtime::{Node, Result, now};
use crate::sandbox::{self, Sandbox};
use crate::task::{Found, Machine};

type Tasks = HashMap<String, Process>;

/// How many records recovery found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovered {
    /// Sandboxes that were added to the store.
    pub sandboxes: usize,
    /// Containers that were added to the store.
    pub containers: usize,
    /// Records of other clients, which are left alone.
    pub foreign: usize,
}

/// Fills the node's store, and follows the tasks that still run.
///
/// # Errors
/// Only containerd's error, if it cannot list its tasks or records.
pub async fn recover(node: &Arc<Node>) -> Result<Recovered> {
    let tasks = node.containerd.list_tasks().await?;
    let tasks: Tasks = tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
    let mut found = Recovered::default();
    let mut sandboxes = node.containerd.list_sandboxes();
    while let Some(page) = sandboxes.next().await? {
        for entry in page {
            let record = match entry {
                Entry::Record(record) => record,
                Entry::TooLarge(id) => sandbox::Record::placeholder_for_too_large(id),
            };
            let keys = LogKeys::default().with_sandbox(&record.id);
            with_keys(keys, node.recover_sandbox(&record, &tasks, &mut found)).await;
        }
    }
    let mut containers = node.containerd.list_containers();
    while let Some(page) = containers.next().await? {
        for entry in page {
            let record = match entry {
                Entry::Record(record) => record,
                Entry::TooLarge(id) => {
                    container::Record::placeholder_for_too_large(id, &node.config.images.snapshotter)
                }
            };
            let keys = LogKeys::default().with_container(&record.id);
            with_keys(keys, node.recover_container(&record, &tasks, &mut found)).await;
        }
    }
    node.adopt_leftover_execs();
    node.sweep_image_volumes();
    node.end_forgotten_shims();
    node.follow_outages();
    // Read before the first call is served, so that no attachment of a new sandbox is included.
    let cached = node.networks.default_network().cached().await.unwrap_or_default();
    node.release_stale_attachments(cached);
    Ok(found)
}

impl Node {
    async fn recover_sandbox(self: &Arc<Self>, record: &containerd::Sandbox, tasks: &Tasks, found: &mut Recovered) {
        let resources = sandbox::Resources::decode(record);
        let mut record = match sandbox::Record::decode(record) {
            Ok(record) => record,
            Err(sandbox::RecordError::Foreign) => return found.foreign += 1,
            Err(error @ sandbox::RecordError::Damaged(_)) => {
                tracing::error!(%error, "damaged sandbox record; the sandbox is listed without its config");
                match sandbox::Record::from_damaged(record) {
                    Some(record) => record,
                    None => return found.foreign += 1,
                }
            }
        };
        self.hold_level(&mut record.selinux);
        let task = tasks.get(record.id.as_str());
        let running = task.filter(|task| task.status == ProcessStatus::Running);
        let state = running.map_or(sandbox::State::Broken, |task| sandbox::State::Ready { pid: task.pid });
        let sandbox = Arc::new(Sandbox::from_earlier_daemon(record, state));
        add_keys(sandbox.log_keys());
        match self.recovered_addresses(&sandbox).await {
            Some(addresses) => sandbox.set_addresses(addresses),
            None => {
                tracing::warn!("sandbox is NOTREADY: its CNI ADD was interrupted");
                // Allowed in every state that recovery sets.
                let _ = sandbox.on(sandbox::Event::Incomplete);
            }
        }
        if let Some(resources) = resources {
            sandbox.set_resources(resources);
        }
        self.store.sandboxes.insert(Arc::clone(&sandbox));
        self.recover_pause(&sandbox);
        found.sandboxes += 1;
    }

    async fn recover_container(self: &Arc<Self>, stored: &containerd::Container, tasks: &Tasks, found: &mut Recovered) {
        let (record, state) = match container::Record::decode(stored) {
            Ok(decoded) => decoded,
            Err(container::RecordError::Foreign) => {
                // The pause containers of our own sandboxes have no extension either.
                let ours = self.store.sandboxes.get(&stored.id).is_some();
                return found.foreign += usize::from(!ours);
            }
            Err(error @ container::RecordError::Damaged(_)) => {
                tracing::error!(%error, "damaged container record; the container is listed as UNKNOWN");
                match container::Record::from_damaged(stored) {
                    Some(record) => (record, State::Unknown),
                    None => return found.foreign += 1,
                }
            }
        };
        let sandbox = self.store.sandbox(&record.sandbox);
        let root = Root {
            snapshotter: stored.snapshotter.clone(),
            chain_id: String::new(),
            cgroups_path: sandbox.map(|sandbox| sandbox.cgroups_path(record.id.as_str())).unwrap_or_default(),
        };
        let spec = stored.spec.as_ref().map(|spec| spec.value.clone()).unwrap_or_default();
        let task = tasks.get(record.id.as_str());
        let started = Started::read(&self.config.state, &record.id);
        let observed =
            Observed { started, same_boot: record.resolved.boot == self.host.boot, recorded: state.clone(), task };
        let new = observed.state();
        let container = Arc::new(Container::new(record, root, SpecInMemory::of(spec), new.clone()));
        add_keys(self.log_keys(&container));
        self.store.containers.insert(Arc::clone(&container));
        found.containers += 1;
        if let (State::Created, State::Exited(exit)) = (state, &new) {
            // An exit never changes once it was reported, so it is written before any client requests it.
            if self.persist_exit(&container, exit).await.is_err() {
                let (node, container, exit) = (Arc::clone(self), Arc::clone(&container), exit.clone());
                self.tasks.background(async move { node.persist_exit_until_written(&container, &exit).await });
            }
        }
        self.resume(&container, task, started).await;
    }

    /// Connects a container with its task again.
    async fn resume(self: &Arc<Self>, container: &Arc<Container>, task: Option<&Process>, started: Option<Started>) {
        match (container.state(), task) {
            (State::Running { pid, .. }, Some(task)) => {
                self.reattach(container).await;
                self.watch_memory(container);
                let found = match task.status {
                    // The task ended while no daemon was running. Its exit is reported as usual.
                    ProcessStatus::Stopped => Found::Ended(task.exit),
                    ProcessStatus::Running => Found::Running { pid },
                    ProcessStatus::Created | ProcessStatus::Unknown => match started {
                        Some(Started::At(_)) => Found::Started,
                        Some(Started::Requested(_)) | None => Found::StartUnknown,
                    },
                };
                self.own_task(container, Machine::found(found));
            }
            // The task is not needed: it was created but never started, or its exit is written. It may exist even if it
            // is not in the list: containerd leaves out a task of which the shim has already deleted its half. A start
            // waits until the task is gone.
            (State::Created | State::Exited(_) | State::Removing { .. }, _) => {
                self.own_task(container, Machine::found(Found::Leftover));
            }
            (State::Starting | State::Unknown, _) | (State::Running { .. }, None) => {}
        }
    }
}

/// What record, task and state directory show together.
struct Observed<'a> {
    recorded: State,
    task: Option<&'a Process>,
    /// What was written down about its start, if that was after the last boot.
    started: Option<Started>,
    same_boot: bool,
}

impl Observed<'_> {
    fn state(self) -> State {
        if self.recorded != State::Created {
            return self.recorded;
        }
        let started_at = self.started.map(Started::at);
        let running = |pid| State::Running { pid, started_at: started_at.unwrap_or_else(now) };
        match self.task.map(|task| (task.status, task.pid)) {
            Some((ProcessStatus::Running | ProcessStatus::Stopped | ProcessStatus::Unknown, pid)) => running(pid),
            // It was started, but its shim has missed that.
            Some((ProcessStatus::Created, pid)) if matches!(self.started, Some(Started::At(_))) => running(pid),
            // A start that did not finish; it can be repeated.
            Some((ProcessStatus::Created, _)) => State::Created,
            None if started_at.is_some() || !self.same_boot => State::Exited(unseen_exit(started_at.unwrap_or(0))),
            None => State::Created,
        }
    }
}

/// The exit of a container whose end was not observed.
fn unseen_exit(started_at: i64) -> Exit {
    Exit { code: 255, started_at, finished_at: now(), reason: Reason::Unknown, message: String::new() }
}
