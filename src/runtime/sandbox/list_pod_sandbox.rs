//! ListPodSandbox: from memory, never from containerd, and already encoded.

use std::collections::HashMap;

use crate::api::Item;
use crate::api::v1::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxFilter, PodSandboxState};
use crate::runtime::Node;
use crate::sandbox::Sandbox;

/// Lists sandboxes; the parts of a filter are ANDed, and its id may be short.
#[must_use]
pub fn list_pod_sandbox(node: &Node, request: &ListPodSandboxRequest) -> ListPodSandboxResponse {
    let filter = request.filter.as_ref();
    let snapshot = node.store.sandboxes.snapshot();
    let chosen = snapshot.objects().filter(|sandbox| filter.is_none_or(|filter| matches(sandbox, filter)));
    let items = chosen.map(|sandbox| Item::sandbox(sandbox.listed.clone(), cri_state(sandbox)));
    items.collect::<Vec<_>>().into()
}

/// CRI's word for a sandbox's state.
pub(crate) fn cri_state(sandbox: &Sandbox) -> PodSandboxState {
    if sandbox.state().is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// Whether labels have all that a selector asks for.
pub(crate) fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn matches(sandbox: &Sandbox, filter: &PodSandboxFilter) -> bool {
    sandbox.id().as_str().starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == cri_state(sandbox))
        && selects(&filter.label_selector, &sandbox.record.config.labels)
}
