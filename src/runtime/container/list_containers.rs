//! ListContainers: from memory, never from containerd, and with items that are already encoded.

use crate::api::Item;
use crate::api::v1::{ContainerFilter, ListContainersRequest, ListContainersResponse};
use crate::container::Container;
use crate::runtime::Node;
use crate::runtime::container::container_status::cri_state;
use crate::runtime::sandbox::list_pod_sandbox::selects;

/// Lists containers. The parts of the filter are ANDed, and ids in it may be shortened.
#[must_use]
pub fn list_containers(node: &Node, request: &ListContainersRequest) -> ListContainersResponse {
    let filter = request.filter.as_ref();
    let snapshot = node.store.containers.snapshot();
    let chosen = snapshot.objects().filter(|container| filter.is_none_or(|filter| matches(container, filter)));
    let items = chosen.map(|container| {
        // This is rare: kubelet requests images by id.
        let moved = node.image_has_moved(container);
        let without_state = if moved { container.record.listed(true) } else { container.listed.clone() };
        Item::container(without_state, container.in_state(cri_state))
    });
    items.collect::<Vec<_>>().into()
}

fn matches(container: &Container, filter: &ContainerFilter) -> bool {
    container.id().as_str().starts_with(&filter.id)
        && container.sandbox().as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == container.in_state(cri_state))
        && selects(&filter.label_selector, &container.record.config.labels)
}
