//! PodSandboxStatus, with the statuses of the sandbox's containers and the time, always:
//! evented PLEG asks for each container by itself otherwise.

use std::collections::HashMap;

use serde_json::json;

use super::list_pod_sandbox::cri_state;
use super::{Node, Result, now};
use crate::api::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandboxNetworkStatus, PodSandboxStatus, PodSandboxStatusRequest,
    PodSandboxStatusResponse,
};
use crate::sandbox::Sandbox;

/// What is known of a sandbox; with `verbose` also what the built-in's `info` tells.
///
/// # Errors
/// [`super::Error::Missing`] for an unknown id.
pub async fn pod_sandbox_status(node: &Node, request: &PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    // Before anything is looked at, and of the events' clock: kubelet orders both by it.
    let timestamp = node.events.stamp(now());
    let containers = node.store.containers_of(sandbox.id());
    Ok(PodSandboxStatusResponse {
        status: Some(status(&sandbox)),
        info: if request.verbose { info(node, &sandbox).await } else { HashMap::new() },
        containers_statuses: containers.iter().map(|container| node.status_of(container)).collect(),
        timestamp,
    })
}

/// The status of one sandbox.
pub(super) fn status(sandbox: &Sandbox) -> PodSandboxStatus {
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

/// Empty on the host's network, where kubelet takes the node's address, and once the pod's
/// addresses were given back.
fn network(sandbox: &Sandbox) -> PodSandboxNetworkStatus {
    let mut addresses = sandbox.addresses().into_iter().map(|address| address.to_string());
    PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    }
}

/// One JSON document under `info`, with the keys of containerd's.
async fn info(node: &Node, sandbox: &Sandbox) -> HashMap<String, String> {
    let config = sandbox.config_now();
    let handler = node.config.handlers.get(&sandbox.record.handler);
    let netns = sandbox.netns(&node.config.netns_dir);
    let closed = netns.as_ref().is_some_and(|path| !crate::netns::is_pinned(path));
    let spec = match handler {
        Some(handler) => spec(node, sandbox, handler).await,
        None => None,
    };
    let attached = node.network(sandbox).attached(sandbox.id()).await.ok().flatten();
    let info = json!({
        "pid": sandbox.pause_pid().unwrap_or(0),
        "processStatus": if sandbox.state().is_ready() { "running" } else { "deleted" },
        "netNamespaceClosed": closed,
        "image": "built-in",
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": sandbox.record.handler,
        "runtimeType": handler.map(|handler| handler.kind.as_str()),
        "config": config,
        "runtimeSpec": spec,
        "cniResult": attached.map(|attached| attached.result),
        "sandboxMetadata": {
            "ID": sandbox.id().as_str(),
            "Config": config,
            "NetNSPath": netns,
            "IP": sandbox.addresses().first().map(ToString::to_string),
            "RuntimeHandler": sandbox.record.handler,
        },
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The spec is a function of the config, so it is made again and not kept.
async fn spec(node: &Node, sandbox: &Sandbox, handler: &crate::config::Handler) -> Option<serde_json::Value> {
    let hostname = crate::sandbox::hostname(&sandbox.record.config).ok()?;
    serde_json::from_slice(&node.pause_spec(sandbox, handler, &hostname).await.ok()?).ok()
}
