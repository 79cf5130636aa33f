//! ListPodSandbox: from memory, never from containerd, and with items that are already encoded.

use std::collections::HashMap;

use crate::api::Item;
use crate::api::v1::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxState};
use crate::runtime::Node;
use crate::sandbox::Sandbox;

/// Lists sandboxes. The parts of the filter are ANDed, and its id may be shortened.
#[must_use]
pub fn list_pod_sandbox(node: &Node, request: &ListPodSandboxRequest) -> ListPodSandboxResponse {
    let filter = request.filter.as_ref();
    let snapshot = node.store.sandboxes.snapshot();
    let chosen = snapshot.objects().filter(|sandbox| filter.is_none_or(|filter| matches(sandbox, filter)));
    let items = chosen.map(|sandbox| Item::sandbox(sandbox.listed.clone(), cri_state(sandbox)));
    items.collect::<Vec<_>>().into()
}

/// CRI's state of a sandbox.
pub(crate) fn cri_state(sandbox: &Sandbox) -> PodSandboxState {
    if sandbox.state().is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// Whether the labels have all entries of the selector.
pub(crate) fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn matches(sandbox: &Sandbox, filter: &PodSandboxFilter) -> bool {
    sandbox.id().as_str().starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == cri_state(sandbox))
        && selects(&filter.label_selector, &sandbox.record.config.labels)
}
