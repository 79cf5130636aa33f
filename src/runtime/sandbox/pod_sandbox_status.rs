//! PodSandboxStatus. It always includes the statuses of the sandbox's containers and the time: otherwise evented PLEG
//! requests each container by itself.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::api::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandboxConfig, PodSandboxNetworkStatus, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse,
};
use crate::runtime::container::container_status::with_spec;
use crate::runtime::sandbox::list_pod_sandbox::cri_state;
use crate::runtime::threads::block_in_place_if_large;
use crate::runtime::{Node, Result, now};
use crate::sandbox::Sandbox;

/// How long a status waits for containerd; after that it is returned without the spec.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the status of a sandbox; with `verbose` also the `info` that containerd's CRI plugin returns.
///
/// # Errors
/// [`crate::runtime::Error::Missing`] for an unknown id.
pub async fn pod_sandbox_status(node: &Node, request: &PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    // Taken before anything is read, and from the clock of the events: kubelet orders both by it.
    let timestamp = node.events.stamp(now());
    let containers = node.store.containers_of(sandbox.id());
    Ok(PodSandboxStatusResponse {
        status: Some(status(&sandbox)),
        info: if request.verbose { info(node, &sandbox).await } else { HashMap::new() },
        containers_statuses: containers.iter().map(|container| node.status_of(container)).collect(),
        timestamp,
    })
}

pub(crate) fn status(sandbox: &Sandbox) -> PodSandboxStatus {
    let config = &sandbox.record.config;
    PodSandboxStatus {
        id: sandbox.id().to_string(),
        metadata: config.metadata.clone(),
        state: cri_state(sandbox).into(),
        created_at: sandbox.record.created_at,
        network: Some(network(sandbox)),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(sandbox.namespaces()) }) }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.handler.clone(),
    }
}

/// Empty on the host's network, where kubelet uses the node's address, and after the pod's addresses were released.
fn network(sandbox: &Sandbox) -> PodSandboxNetworkStatus {
    let mut addresses = sandbox.addresses().into_iter().map(|address| address.to_string());
    PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    }
}

/// The `info` document, with the keys of containerd's CRI plugin. The spec is JSON already; [`with_spec`] adds it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    pid: u32,
    process_status: &'a str,
    net_namespace_closed: bool,
    image: &'a str,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    runtime_handler: &'a str,
    runtime_type: Option<&'a str>,
    config: &'a PodSandboxConfig,
    cni_result: Option<serde_json::Value>,
    sandbox_metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    config: &'a PodSandboxConfig,
    #[serde(rename = "NetNSPath")]
    netns_path: Option<&'a Path>,
    #[serde(rename = "IP")]
    ip: Option<String>,
    runtime_handler: &'a str,
}

/// The value of `info`, written directly as text: a JSON tree of data that a tenant fills would take many times its
/// size.
async fn info(node: &Node, sandbox: &Sandbox) -> HashMap<String, String> {
    let config = sandbox.config_now();
    let handler = node.config.handlers.get(&sandbox.record.handler);
    let netns = sandbox.netns(&node.config.netns_dir);
    let closed = netns.as_ref().is_some_and(|path| !crate::netns::is_pinned(path));
    let spec = spec(node, sandbox).await.unwrap_or_default();
    let attached = node.network(sandbox).attached(sandbox.id()).await.ok().flatten();
    let info = Info {
        pid: sandbox.pause_pid().unwrap_or(0),
        process_status: if sandbox.state().is_ready() { "running" } else { "deleted" },
        net_namespace_closed: closed,
        image: "built-in",
        snapshot_key: "",
        snapshotter: "",
        runtime_handler: &sandbox.record.handler,
        runtime_type: handler.map(|handler| handler.kind.as_str()),
        config: &config,
        cni_result: attached.map(|attached| attached.result),
        sandbox_metadata: Metadata {
            id: sandbox.id().as_str(),
            config: &config,
            netns_path: netns.as_deref(),
            ip: sandbox.addresses().first().map(ToString::to_string),
            runtime_handler: &sandbox.record.handler,
        },
    };
    let text = block_in_place_if_large(spec.len(), || with_spec(&info, &spec));
    HashMap::from([("info".to_owned(), text)])
}

/// The OCI spec that the pause container was created with, from its record; `None` while containerd does not respond.
async fn spec(node: &Node, sandbox: &Sandbox) -> Option<Vec<u8>> {
    if !node.availability.is_up() {
        return None;
    }
    let stored = timeout(PATIENCE, node.containerd.get_container(sandbox.id().as_str())).await.ok()?.ok()?;
    Some(stored.spec?.value)
}
