//! ContainerStatus, and the status for other verbs.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::IgnoredAny;

use crate::api::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse,
};
use crate::container::{Container, State, signal};
use crate::runtime::container::image_volumes;
use crate::runtime::threads::block_in_place_if_large;
use crate::runtime::{Node, Result};
use crate::spec;

/// Returns the status of a container; with `verbose` also the `info` that containerd's CRI plugin returns.
///
/// # Errors
/// [`crate::runtime::Error::Missing`] for an unknown id.
pub fn container_status(node: &Node, request: &ContainerStatusRequest) -> Result<ContainerStatusResponse> {
    let container = node.container(&request.container_id)?;
    Ok(ContainerStatusResponse {
        status: Some(node.status_of(&container)),
        info: if request.verbose { info(node, &container) } else { HashMap::new() },
    })
}

/// CRI's state of a container. One that is being removed keeps the state that it had before.
pub(crate) fn cri_state(state: &State) -> ContainerState {
    match state {
        State::Created | State::Starting | State::Removing { exit: None } => ContainerState::ContainerCreated,
        State::Running { .. } => ContainerState::ContainerRunning,
        State::Exited(_) | State::Removing { exit: Some(_) } => ContainerState::ContainerExited,
        State::Unknown => ContainerState::ContainerUnknown,
    }
}

impl Node {
    /// Whether the name by which the container's image was requested now refers to another image, or to none.
    pub(crate) fn image_has_moved(&self, container: &Container) -> bool {
        let record = &container.record;
        record.image_name().is_some_and(|name| !self.images.means(name, &record.resolved.image_id))
    }

    pub(crate) fn status_of(&self, container: &Container) -> ContainerStatus {
        status(container, self.image_has_moved(container))
    }
}

fn status(container: &Container, image_has_moved: bool) -> ContainerStatus {
    let record = &container.record;
    let state = container.state();
    let mut status = ContainerStatus {
        id: container.id().to_string(),
        metadata: record.config.metadata.clone(),
        state: cri_state(&state).into(),
        created_at: record.resolved.created_at,
        image: Some(record.image_spec(image_has_moved)),
        image_ref: record.resolved.image_ref.clone(),
        image_id: record.resolved.image_id.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: image_volumes::reported(container),
        log_path: record.resolved.log_path.clone(),
        stop_signal: signal::to_cri(record.resolved.stop_signal),
        ..ContainerStatus::default()
    };
    if let State::Running { started_at, .. } = state {
        status.started_at = started_at;
    }
    if let Some(exit) = state.exit() {
        status.started_at = exit.started_at;
        status.finished_at = exit.finished_at;
        status.exit_code = exit.code;
        exit.reason.as_str().clone_into(&mut status.reason);
        status.message.clone_from(&exit.message);
    }
    let spec = container.spec();
    if let Ok(spec) = block_in_place_if_large(spec.json.len(), || serde_json::from_slice(&spec.json)) {
        status.resources = Some(spec::reported_resources(&spec));
        status.user = Some(spec::reported_user(&spec));
    }
    status
}

/// The `info` document, with the keys of containerd's CRI plugin. The spec is JSON already; [`with_spec`] adds it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    pid: u32,
    removing: bool,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    runtime_type: Option<&'a str>,
    config: &'a ContainerConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
}

/// The value of `leftOut` for a large container.
const LEFT_OUT: &str =
    "what only its process needs (arguments, environment, mounts), for it is large: containerd's record has it";

/// The value of `info`, written directly as text: a JSON tree of data that a tenant fills would take many times its
/// size.
fn info(node: &Node, container: &Container) -> HashMap<String, String> {
    let record = &container.record;
    let sandbox = node.store.sandbox(container.sandbox());
    let handler = sandbox.and_then(|sandbox| node.config.handlers.get(&sandbox.record.handler).cloned());
    let pid = match container.state() {
        State::Running { pid, .. } => pid,
        State::Created | State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. } => 0,
    };
    let spec = container.spec();
    let info = Info {
        sandbox_id: container.sandbox().as_str(),
        pid,
        removing: matches!(container.state(), State::Removing { .. }),
        snapshot_key: container.id().as_str(),
        snapshotter: &container.root.snapshotter,
        runtime_type: handler.as_ref().map(|handler| handler.kind.as_str()),
        config: &record.config,
        left_out: (record.has_large_config() || !spec.is_whole).then_some(LEFT_OUT),
    };
    let text = block_in_place_if_large(spec.json.len(), || with_spec(&info, &spec.json));
    HashMap::from([("info".to_owned(), text)])
}

/// The document with `runtimeSpec` as its last key; `null` if the spec is not JSON.
pub(crate) fn with_spec(info: &impl Serialize, spec: &[u8]) -> String {
    let mut text = serde_json::to_string(info).unwrap_or_default();
    let is_json = serde_json::from_slice::<IgnoredAny>(spec).is_ok();
    let spec = std::str::from_utf8(spec).ok().filter(|_| is_json).unwrap_or("null");
    if text.pop() == Some('}') {
        text += ",\"runtimeSpec\":";
        text += spec;
        text.push('}');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_verbose_document_has_the_spec_as_it_is_or_null() {
        let read = |spec: &[u8]| serde_json::from_str::<Value>(&with_spec(&json!({ "pid": 7 }), spec)).unwrap();
        assert_eq!(read(br#" {"a": ["}"]}"#), json!({ "pid": 7, "runtimeSpec": { "a": ["}"] } }));
        for bad in [b"".as_slice(), b"{", b"\xff", b"{},\"x\":1"] {
            assert_eq!(read(bad), json!({ "pid": 7, "runtimeSpec": null }));
        }
    }
}
