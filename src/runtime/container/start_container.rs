//! StartContainer: streams → task created → task started.

use std::sync::Arc;

use crate::api::v1::{StartContainerRequest, StartContainerResponse};
use crate::config::Handler;
use crate::container::io::{self, LogPath, StreamsConfig};
use crate::container::started::Started;
use crate::container::{Container, Event, Exit, Reason};
use crate::containerd::{Any, CreateTask};
use crate::runtime::container::create_container::not_ready;
use crate::runtime::sandbox::selinux;
use crate::runtime::{Error, Node, Result, now};
use crate::sandbox::Sandbox;
use crate::task::{CreateRequest, Machine};
use crate::telemetry::{Stage, Verb, during};

/// Exit code of a container that could not be started, as kubelet expects it.
const START_ERROR: i32 = 128;

/// Starts a created container.
///
/// # Errors
/// [`Error::State`] unless the container is created and its sandbox is ready; otherwise the cause of the failure: the
/// container has then exited with reason StartError, and nothing of its task is left.
pub async fn start_container(node: &Arc<Node>, request: StartContainerRequest) -> Result<StartContainerResponse> {
    let container = node.container(&request.container_id)?;
    node.availability.ready(Verb::StartContainer).await?;
    let sandbox = node.sandbox(container.sandbox().as_str())?;
    // One atomic decision: a StopPodSandbox that begins now sees the start and waits for it, or the start is refused.
    let started = sandbox.while_ready(|| node.apply_event(&container, Event::Start));
    started.ok_or_else(|| not_ready(&sandbox))?.map_err(|denied| Error::State {
        kind: "container",
        id: container.id().to_string(),
        state: denied.0.name().to_owned(),
        wanted: "created",
    })?;
    let id = container.id().to_string();
    node.in_flight.operation(Verb::StartContainer, id, start(Arc::clone(node), container)).await?;
    Ok(StartContainerResponse {})
}

async fn start(node: Arc<Node>, container: Arc<Container>) -> Result<()> {
    // The task of a start that an earlier daemon did not finish is deleted first.
    during(Stage::TaskDelete, container.task().gone()).await;
    node.own_task(&container, Machine::default());
    // Waits for an update of its resources that is in progress: it has then written the record, or left it unchanged.
    let _lock = container.lock_spec().await;
    match steps(&node, &container).await {
        Ok(()) => Ok(()),
        Err(error) => {
            node.fail_start(&container, &error).await;
            Err(error)
        }
    }
}

async fn steps(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let id = container.id().as_str();
    let sandbox = node.sandbox(container.sandbox().as_str())?;
    // The container whose PID namespace is shared may have ended since this one was created.
    node.target_pid(&sandbox, &container.record.config)?;
    let handler = node.handler(&sandbox.record.handler)?;
    let rootfs = during(Stage::Snapshot, node.containerd.snapshot_mounts(&container.root.snapshotter, id)).await?;
    let rootfs = selinux::label_root(rootfs, &container.spec().json);

    let fails = |source| Error::Io { id: id.to_owned(), source };
    let streams = node.streams.prepare(node.streams_config(container).map_err(fails)?);
    let streams = during(Stage::Streams, streams).await.map_err(fails)?;
    container.set_streams(Some(Arc::clone(&streams)));

    let options = node.task_options(&sandbox, container, handler);
    let create = CreateTask { id: id.to_owned(), rootfs, stdio: streams.stdio(), options: Some(options) };
    let task = container.task();
    during(Stage::TaskCreate, task.create(CreateRequest::Task(Box::new(create)))).await?;
    streams.task_created();
    node.watch_memory(container);
    // Written before the process may run: the next daemon must not mistake a container that has ended for one that
    // never ran.
    write_start_time(node, container, Started::Requested(now()));
    during(Stage::TaskStart, task.start()).await?;
    Ok(())
}

/// Writes a container's start to a file, for the next daemon.
pub(crate) fn write_start_time(node: &Node, container: &Container, started: Started) {
    if let Err(error) = started.write(&node.config.state, container.id()) {
        tracing::warn!(%error, "a restart of Pontoon will not know when it was started");
    }
}

impl Node {
    /// How a container's streams are configured.
    ///
    /// # Errors
    /// Fails if the log path leaves its directory.
    pub(crate) fn streams_config(&self, container: &Container) -> io::Result<StreamsConfig> {
        let config = &container.record.config;
        let sandbox = self.store.sandbox(container.sandbox());
        let directory = sandbox.map(|sandbox| sandbox.record.config.log_directory.clone()).unwrap_or_default();
        Ok(StreamsConfig {
            id: container.id().clone(),
            state_dir: self.config.state.clone(),
            log: LogPath::new(&directory, &config.log_path)?,
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
        })
    }

    /// The runtime options for a container's task. In a user namespace, they contain its user and group on the host.
    fn task_options(&self, sandbox: &Sandbox, container: &Container, handler: &Handler) -> Any {
        let Some(mapping) = sandbox.mapping() else { return handler.options.any() };
        let spec: oci_spec::runtime::Spec = serde_json::from_slice(&container.spec().json).unwrap_or_default();
        let user = spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
        // A user that is not mapped was refused when the container was created.
        let on_host = mapping.host_uid(user.uid()).zip(mapping.host_gid(user.gid()));
        on_host.map_or_else(|| handler.options.any(), |(uid, gid)| handler.options.any_for(uid, gid))
    }

    /// Rolls back a failed start: no task is left, and the container's exit says why. The process has ended before the
    /// exit is reported.
    async fn fail_start(&self, container: &Arc<Container>, error: &Error) {
        let task = container.task();
        task.end();
        during(Stage::TaskDelete, task.gone()).await;
        let exit = Exit {
            code: START_ERROR,
            started_at: 0,
            finished_at: now(),
            reason: Reason::StartError,
            message: error.chain(),
        };
        during(Stage::Record, self.persist_exit_until_written(container, &exit)).await;
        let _ = self.apply_event(container, Event::Ended(exit));
    }
}
