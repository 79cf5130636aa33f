//! What containerd has to be and must not be, looked at before anything is served.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use crate::config::Config;
use crate::containerd::{Containerd, Plugin, ProcessStatus};

/// How long containerd may take to answer at our start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(250);
/// Between two lines about it.
const PROGRESS: Duration = Duration::from_secs(5);
/// The line to put into containerd's configuration.
const DISABLE: &str = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]";
/// Extensions of the built-in CRI's containers.
const FOREIGN_METADATA: [&str; 2] = ["io.cri-containerd.sandbox.metadata", "io.cri-containerd.container.metadata"];
/// Services that came with containerd 2.0 and that everything here stands on.
const REQUIRED: [(&str, &str); 4] = [
    ("io.containerd.grpc.v1", "sandboxes"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.grpc.v1", "streaming"),
    ("io.containerd.grpc.v1", "tasks"),
];

/// Waits for containerd; gives its version.
pub(super) async fn wait_for(containerd: &Containerd, config: &Config) -> anyhow::Result<String> {
    let start = Instant::now();
    let mut told = start;
    loop {
        let error = match containerd.version().await {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        let address = config.containerd.address.display();
        if start.elapsed() >= PATIENCE {
            bail!("containerd does not answer at {address} ({error}); is it running, and is containerd.address right?");
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            tracing::warn!(%address, seconds = start.elapsed().as_secs(), %error, "waiting for containerd");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Refuses a containerd that lacks what we need, or that serves CRI itself in our namespace.
pub(super) async fn plugins(containerd: &Containerd, version: &str) -> anyhow::Result<Vec<Plugin>> {
    let plugins = containerd.plugins().await.context("ask containerd for its plugins")?;
    let loaded = |kind: &str, id: &str| {
        plugins.iter().any(|plugin| plugin.kind == kind && plugin.id == id && plugin.init_error.is_none())
    };
    let missing: Vec<String> =
        REQUIRED.iter().filter(|(kind, id)| !loaded(kind, id)).map(|(kind, id)| format!("{kind}.{id}")).collect();
    if !missing.is_empty() {
        bail!(
            "containerd {version} lacks {}; Pontoon needs containerd 2.0 or newer with these plugins enabled",
            missing.join(", ")
        );
    }
    if loaded("io.containerd.grpc.v1", "cri") && containerd.namespace() == "k8s.io" {
        bail!(
            "containerd's own CRI plugin is active, and two CRI servers in the namespace k8s.io destroy each other's pods; \
             put this line into containerd's configuration and restart it: {DISABLE}"
        );
    }
    for id in ["images", "runtime"] {
        if loaded("io.containerd.cri.v1", id) {
            tracing::warn!(
                "containerd's plugin io.containerd.cri.v1.{id} is active and does needless work; disable it: {DISABLE}"
            );
        }
    }
    Ok(plugins)
}

/// Refuses to start beside running pods of the built-in CRI: kubelet would start duplicates of them.
pub(super) async fn foreign_pods(containerd: &Containerd, allowed: bool) -> anyhow::Result<()> {
    let running: std::collections::HashSet<String> = {
        let tasks = containerd.list_tasks().await.context("list containerd's tasks")?;
        tasks.into_iter().filter(|task| task.status == ProcessStatus::Running).map(|task| task.id).collect()
    };
    let containers = containerd.list_containers("").await.context("list containerd's containers")?;
    let foreign: Vec<String> = containers
        .into_iter()
        .filter(|container| running.contains(&container.id))
        .filter(|container| FOREIGN_METADATA.iter().any(|key| container.extensions.contains_key(*key)))
        .map(|container| container.id)
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let list = foreign.join(", ");
    if allowed {
        tracing::warn!(containers = list, "containers of containerd's own CRI are running; they are left alone");
        return Ok(());
    }
    bail!(
        "containers of containerd's own CRI are running and kubelet would start duplicates beside them: {list}; \
         drain the node first, or set allow_foreign_pods = true"
    )
}
