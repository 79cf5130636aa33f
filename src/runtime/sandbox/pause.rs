//! The pause container of a sandbox.

use std::path::Path;
use std::sync::Arc;

use crate::cgroup;
use crate::config::Handler;
use crate::container::{seccomp_profile, spec_any};
use crate::containerd::{self, Container, CreateTask, Exit, Mount, Stdio};
use crate::log_keys::call_with_keys;
use crate::runtime::{Error, Node, Result, chain, labels, record_size};
use crate::sandbox::{Event, Sandbox, pause};
use crate::spec;
use crate::task::{CreateRequest, Found, Machine, TaskObserver, UNSEEN};
use crate::telemetry::{Stage, during};
use crate::undo::Undo;

/// Where the shim mounts a root file system, relative to the bundle.
const ROOT: &str = "rootfs";

/// Updates a sandbox when the owner of its pause task reports an event.
struct PauseObserver {
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
}

impl TaskObserver for PauseObserver {
    async fn started(&self, pid: u32) {
        // Denied only if the sandbox is already being rolled back.
        let _ = self.sandbox.on(Event::PauseStarted { pid });
    }

    /// A sandbox whose pause process has ended is no longer ready.
    async fn ended(&self, exit: Exit) -> containerd::Result<()> {
        tracing::info!(code = exit.code, "pause process ended");
        // Allowed in every state.
        let _ = self.sandbox.on(Event::PauseExited);
        self.node.announce_end(&self.sandbox);
        Ok(())
    }

    async fn lost_exit(&self, late: bool) -> Option<Exit> {
        Some(self.node.owner.hints.of_a_lost_task(self.sandbox.id().as_str(), late).await.unwrap_or(UNSEEN))
    }

    async fn gone(&self) {}
}

impl Node {
    /// Gives a sandbox's pause task an owner. The previous task must be gone.
    pub(crate) fn own_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>, machine: Machine) {
        let observer = PauseObserver { node: Arc::clone(self), sandbox: Arc::clone(sandbox) };
        // The owner outlives the operation that starts it.
        let own = || self.owner.own(sandbox.id().as_str(), machine, sandbox.shim_unknown_flag(), observer);
        sandbox.set_pause(call_with_keys(sandbox.log_keys().clone(), own));
    }

    /// Ends the pause process, deletes its task, and ends the shim if containerd has forgotten it. No container of the
    /// sandbox may be alive.
    ///
    /// # Errors
    /// Fails if a forgotten shim cannot be ended.
    pub(crate) async fn end_pause_task(&self, sandbox: &Sandbox) -> containerd::Result<()> {
        let pause = sandbox.pause();
        pause.end();
        during(Stage::TaskDelete, pause.gone()).await;
        if sandbox.may_have_unknown_shim() {
            self.containerd.end_forgotten_shim(sandbox.id().as_str()).await?;
        }
        Ok(())
    }

    /// Takes over the pause task of an earlier daemon: follows it if it runs, or else deletes what is left of it.
    pub(crate) fn recover_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let found = sandbox.pause_pid().map_or(Found::Leftover, |pid| Found::Running { pid });
        self.own_pause(sandbox, Machine::found(found));
    }

    /// The OCI spec of the pause container as JSON.
    pub(crate) async fn pause_spec(&self, sandbox: &Sandbox, handler: &Handler, hostname: &str) -> Result<Vec<u8>> {
        let linux = sandbox.record.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        let seccomp =
            seccomp_profile::read(&self.config.seccomp_profile_roots, spec::sandbox_seccomp_file(context)?).await?;
        let netns = sandbox.netns(&self.config.netns_dir);
        let paths = self.paths(sandbox);
        let mapping = sandbox.mapping();
        let spec = spec::sandbox(&spec::SandboxInput {
            id: sandbox.id(),
            config: &sandbox.record.config,
            handler: &spec_handler(self, handler),
            host: &self.host.facts,
            cgroup_path: sandbox.cgroups_path(sandbox.id().as_str()),
            netns: netns.as_deref(),
            userns: mapping.map(|_| paths.userns.as_path()),
            root: if mapping.is_some() { Path::new(ROOT) } else { &self.host.pause_root },
            args: vec![pause::COMMAND.to_owned()],
            hostname: hostname.to_owned(),
            seccomp: seccomp.as_deref(),
            selinux: sandbox.record.selinux.as_ref().map(|selinux| &selinux.labels),
            files: &files(paths.clone()),
        })?;
        self.require_profile(&spec).await?;
        let spec = encode(&spec)?;
        record_size::check_sandbox(&sandbox.record.config, &spec)?;
        Ok(spec)
    }

    pub(crate) fn push_pause_undo(self: &Arc<Self>, sandbox: &Arc<Sandbox>, undo: &mut Undo) {
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        let removed = async move { node.remove_pause(&sandbox).await.map_err(|error| chain(&error)) };
        undo.push("remove pause container", removed);
    }

    async fn remove_pause(&self, sandbox: &Sandbox) -> containerd::Result<()> {
        self.end_pause_task(sandbox).await?;
        // A runc that was killed during its create leaves the cgroup behind.
        cgroup::remove(&sandbox.cgroups_path(sandbox.id().as_str()), self.host.facts.cgroup_v2);
        self.containerd.delete_container(sandbox.id().as_str()).await
    }

    /// Creates and starts the pause container; then the sandbox is ready. The record's `sandbox` field stays empty, or
    /// containerd would look for a shim that does not exist yet (docs/rulings.md 8).
    pub(crate) async fn start_pause(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        handler: &Handler,
        spec: Vec<u8>,
    ) -> Result<()> {
        let id = sandbox.id().as_str();
        let container = Container {
            id: id.to_owned(),
            labels: labels::of_sandbox(sandbox.metadata()),
            runtime: handler.kind.clone(),
            runtime_options: Some(handler.options.any()),
            spec: Some(spec_any(&spec)),
            ..Container::default()
        };
        during(Stage::Record, self.containerd.create_container(container)).await?;
        let create = CreateTask {
            id: id.to_owned(),
            rootfs: sandbox.mapping().map(|_| self.pause_mount()).into_iter().collect(),
            stdio: Stdio::default(),
            options: Some(handler.options.any()),
        };
        self.own_pause(sandbox, Machine::default());
        let pause = sandbox.pause();
        during(Stage::TaskCreate, pause.create(CreateRequest::Task(Box::new(create)))).await?;
        during(Stage::TaskStart, pause.start()).await?;
        Ok(())
    }

    /// Mounts the pause root below the bundle, for a pod in a user namespace: only the node's root may access our
    /// directory.
    fn pause_mount(&self) -> Mount {
        Mount {
            fs_type: "bind".to_owned(),
            source: self.host.pause_root.display().to_string(),
            target: String::new(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
        }
    }
}

pub(crate) fn encode(spec: &oci_spec::runtime::Spec) -> Result<Vec<u8>> {
    serde_json::to_vec(spec).map_err(|error| Error::System {
        operation: "encode",
        path: "OCI spec".to_owned(),
        source: error.into(),
    })
}

pub(crate) fn spec_handler(node: &Node, handler: &Handler) -> spec::Handler {
    let features = node.host.features(&handler.name);
    spec::Handler {
        name: handler.name.clone(),
        base_spec: handler.base_spec.clone(),
        recursive_read_only: features.recursive_read_only_mounts,
        id_mapped_mounts: features.id_mapped_mounts,
        privileged_without_host_devices: handler.privileged_without_host_devices,
        pod_annotations: handler.pod_annotations.clone(),
        container_annotations: handler.container_annotations.clone(),
        virtual_machine: handler.virtual_machine,
    }
}

pub(crate) fn files(paths: crate::sandbox::SandboxPaths) -> spec::SandboxFiles {
    spec::SandboxFiles { hostname: paths.hostname, hosts: paths.hosts, resolv_conf: paths.resolv_conf, shm: paths.shm }
}
