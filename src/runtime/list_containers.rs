//! ListContainers: from memory, never from containerd.

use super::Node;
use super::container_status::{cri_state, image_spec};
use super::list_pod_sandbox::selects;
use crate::api::v1::{self, ContainerFilter, ListContainersRequest, ListContainersResponse};
use crate::container::Container;

/// Lists containers; the parts of a filter are ANDed, and its ids may be short.
#[must_use]
pub fn list_containers(node: &Node, request: &ListContainersRequest) -> ListContainersResponse {
    let filter = request.filter.as_ref();
    let all = node.store.containers.all();
    let containers = all.iter().filter(|container| filter.is_none_or(|filter| matches(container, filter)));
    ListContainersResponse { containers: containers.map(|container| item(container)).collect() }
}

fn matches(container: &Container, filter: &ContainerFilter) -> bool {
    container.id().as_str().starts_with(&filter.id)
        && container.sandbox().as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == cri_state(&container.state()))
        && selects(&filter.label_selector, &container.record.config.labels)
}

fn item(container: &Container) -> v1::Container {
    let record = &container.record;
    v1::Container {
        id: container.id().to_string(),
        pod_sandbox_id: container.sandbox().to_string(),
        metadata: record.config.metadata.clone(),
        image: Some(image_spec(container)),
        // What PullImage answered: kubelet's image GC compares them.
        image_ref: record.about.image_id.clone(),
        state: cri_state(&container.state()).into(),
        created_at: record.about.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.about.image_id.clone(),
    }
}
