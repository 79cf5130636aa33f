//! The pause container of a sandbox.

use std::path::Path;
use std::sync::Arc;

use super::{Change, Error, Node, Result, labels, task};
use crate::config::Handler;
use crate::container::{profile, spec_any};
use crate::containerd::{Container, CreateTask, Mount, Stdio};
use crate::sandbox::{Event, Sandbox, pause};
use crate::spec;
use crate::telemetry::{Stage, during};
use crate::undo::Undo;

/// Where the shim mounts a root, below the bundle.
const ROOT: &str = "rootfs";

impl Node {
    /// The OCI spec of the pause container as JSON.
    pub(super) async fn pause_spec(&self, sandbox: &Sandbox, handler: &Handler, hostname: &str) -> Result<Vec<u8>> {
        let linux = sandbox.record.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        let seccomp = profile::read(&self.config.seccomp_profile_roots, spec::sandbox_seccomp_file(context)?).await?;
        let netns = sandbox.netns(&self.config.netns_dir);
        let paths = self.paths(sandbox);
        let mapping = sandbox.mapping();
        let spec = spec::sandbox(&spec::SandboxInput {
            id: sandbox.id(),
            config: &sandbox.record.config,
            handler: &spec_handler(self, handler),
            host: &self.host,
            cgroup_path: sandbox.cgroups_path(sandbox.id().as_str()),
            netns: netns.as_deref(),
            userns: mapping.map(|_| paths.userns.as_path()),
            root: if mapping.is_some() { Path::new(ROOT) } else { &self.pause_root },
            args: vec![pause::COMMAND.to_owned()],
            hostname: hostname.to_owned(),
            seccomp: seccomp.as_deref(),
            selinux: sandbox.record.selinux.as_ref().map(|selinux| &selinux.labels),
            files: &files(paths.clone()),
        })?;
        self.require_profile(&spec).await?;
        encode(&spec)
    }

    pub(super) fn push_pause_undo(&self, sandbox: &Sandbox, undo: &mut Undo) {
        let (containerd, id) = (self.containerd.clone(), sandbox.id().clone());
        undo.push("remove pause container", async move {
            task::destroy(&containerd, id.as_str()).await?;
            containerd.delete_container(id.as_str()).await
        });
    }

    /// Creates and starts the pause container; gives its host PID. Its `sandbox` stays empty:
    /// containerd would look for a shim that is not there yet (rulings.md 8).
    pub(super) async fn start_pause(&self, sandbox: &Sandbox, handler: &Handler, spec: Vec<u8>) -> Result<u32> {
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
        let pid = during(Stage::TaskCreate, self.containerd.create_task(create)).await?;
        during(Stage::TaskStart, self.containerd.start_task(id, "")).await?;
        Ok(pid)
    }

    /// The pause root below the bundle, for who cannot reach it where it is: our root is closed to all but the node's root.
    fn pause_mount(&self) -> Mount {
        Mount {
            fs_type: "bind".to_owned(),
            source: self.pause_root.display().to_string(),
            target: String::new(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
        }
    }

    /// Follows the pause process to its end: then the sandbox is not ready any more.
    pub(super) fn watch_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        self.tasks.background(async move {
            let id = sandbox.id().as_str();
            let wait = node.containerd.wait_task(id, "").await;
            let exit = node.exit_of(id, wait).await;
            tracing::info!(sandbox = id, code = exit.code, "pause process ended");
            // Denied only after a Stop that has reclaimed everything already.
            let _ = sandbox.on(Event::PauseExited);
            node.tell_of_end(&sandbox);
            if let Err(error) = node.destroy_pause(&sandbox).await {
                tracing::debug!(sandbox = id, %error, "the pause task");
                task::delete(&node.containerd, id).await;
            }
        });
    }

    /// Ends the pause process and deletes its task: once, for a Stop and for who saw it end. A second Delete at the same
    /// time meets a shim that is going, and then its socket can stay.
    pub(super) async fn destroy_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let change = Change::DestroyPause(sandbox.id().clone());
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        let start = || async move {
            Ok(during(Stage::TaskDelete, task::destroy(&node.containerd, sandbox.id().as_str())).await?)
        };
        self.change(change, start).await
    }
}

pub(super) fn encode(spec: &oci_spec::runtime::Spec) -> Result<Vec<u8>> {
    serde_json::to_vec(spec).map_err(|error| Error::System {
        operation: "encode",
        path: "OCI spec".to_owned(),
        source: error.into(),
    })
}

pub(super) fn spec_handler(node: &Node, handler: &Handler) -> spec::Handler {
    let features = node.features.get(&handler.name).cloned().unwrap_or_default();
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

pub(super) fn files(paths: crate::sandbox::SandboxPaths) -> spec::SandboxFiles {
    spec::SandboxFiles { hostname: paths.hostname, hosts: paths.hosts, resolv_conf: paths.resolv_conf, shm: paths.shm }
}
