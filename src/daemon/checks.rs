//! What containerd must provide and must not do, checked before anything is served.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, timeout};

use crate::containerd::{Containerd, Entry, Plugin, ProcessStatus};
use crate::telemetry::millis;

/// How long containerd may take to answer when Pontoon starts.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const RETRY: Duration = Duration::from_millis(250);
/// The time between two log lines about it.
const PROGRESS: Duration = Duration::from_secs(5);
/// The line that the operator has to add to containerd's configuration.
const DISABLE: &str = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]";
/// Keys of extensions in the container records of containerd's built-in CRI.
const FOREIGN_METADATA: [&str; 2] = ["io.cri-containerd.sandbox.metadata", "io.cri-containerd.container.metadata"];
/// Services that Pontoon depends on. containerd has all of them since 2.0.
const REQUIRED: [(&str, &str); 4] = [
    ("io.containerd.grpc.v1", "sandboxes"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.grpc.v1", "streaming"),
    ("io.containerd.grpc.v1", "tasks"),
];

/// Waits for containerd, and returns its version.
pub(super) async fn wait_for(containerd: &Containerd, address: &Path) -> anyhow::Result<String> {
    if fs::metadata(address).is_ok_and(|there| !there.file_type().is_socket()) {
        bail!("config key containerd.address: {} is not a socket", address.display());
    }
    let address = address.display();
    let start = Instant::now();
    let mut last_logged: Option<Instant> = None;
    loop {
        // A containerd that accepts the connection but does not answer gets no more time than one that does not listen.
        let patience = PATIENCE.saturating_sub(start.elapsed()).min(PROGRESS);
        let error = match timeout(patience, containerd.version()).await {
            Ok(Ok(version)) => return Ok(version),
            Ok(Err(error)) => error.reason().to_owned(),
            Err(_) => format!("it accepts the connection but does not answer for {patience:?}"),
        };
        if start.elapsed() >= PATIENCE {
            bail!("containerd does not answer at {address} ({error}); is it running, and is containerd.address right?");
        }
        if last_logged.is_none_or(|last| last.elapsed() >= PROGRESS) {
            last_logged = Some(Instant::now());
            let ms = millis(start.elapsed());
            tracing::warn!(%address, ms, error, "config key containerd.address: waiting for containerd to answer there");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Refuses a containerd that lacks what we need, or that serves CRI itself in our namespace.
pub(super) async fn plugins(containerd: &Containerd, version: &str) -> anyhow::Result<Vec<Plugin>> {
    let plugins = containerd.plugins().await.context("query containerd's plugins")?;
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

/// Refuses to start next to running pods of containerd's built-in CRI: kubelet would start duplicates of them.
pub(super) async fn foreign_pods(containerd: &Containerd, allowed: bool) -> anyhow::Result<()> {
    let running: std::collections::HashSet<String> = {
        let tasks = containerd.list_tasks().await.context("list containerd's tasks")?;
        tasks.into_iter().filter(|task| task.status == ProcessStatus::Running).map(|task| task.id).collect()
    };
    let mut foreign = Vec::new();
    let mut pages = containerd.list_containers();
    while let Some(page) = pages.next().await.context("list containerd's containers")? {
        let records = page.into_iter().filter_map(|entry| match entry {
            Entry::Record(container) => Some(container),
            // The record is too large to be read, so its owner is unknown.
            Entry::TooLarge(_) => None,
        });
        let theirs = records
            .filter(|container| running.contains(&container.id))
            .filter(|container| FOREIGN_METADATA.iter().any(|key| container.extensions.contains_key(*key)));
        foreign.extend(theirs.map(|container| container.id));
    }
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

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// The error with which the start is refused. It must come after 30 s.
    async fn refusal(address: &Path) -> String {
        let start = Instant::now();
        let containerd = Containerd::new(address, "k8s.io").unwrap();
        let refused = wait_for(&containerd, address).await.unwrap_err().to_string();
        let took = start.elapsed();
        assert!(took >= PATIENCE && took < PATIENCE + Duration::from_secs(1), "{took:?}");
        refused
    }

    #[tokio::test(start_paused = true)]
    async fn containerd_has_thirty_seconds_to_answer() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("containerd.sock");
        let missing = refusal(&address).await;
        assert!(missing.starts_with(&format!("containerd does not answer at {}", address.display())), "{missing}");
        let _silent = UnixListener::bind(&address).unwrap();
        let silent = refusal(&address).await;
        assert!(silent.contains("it accepts the connection but does not answer"), "{silent}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_socket_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let containerd = Containerd::new(directory.path(), "k8s.io").unwrap();
        let refused = wait_for(&containerd, directory.path()).await.unwrap_err().to_string();
        assert_eq!(refused, format!("config key containerd.address: {} is not a socket", directory.path().display()));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
