//! ListContainerStats: calls no shims except those of virtual machines, and waits only briefly for containerd
//! (`usage.rs`).

use std::sync::Arc;

use crate::api::v1::{ContainerStats, ContainerStatsFilter};
use crate::container::Container;
use crate::runtime::Node;
use crate::runtime::sandbox::list_pod_sandbox::selects;
use crate::runtime::stats::usage;

/// What containers use now. The parts of the filter are ANDed, and ids in it may be shortened. A container that is not
/// running is listed with only its writable layer; kubelet looks only at running ones.
pub async fn list_container_stats(node: &Arc<Node>, filter: Option<&ContainerStatsFilter>) -> Vec<ContainerStats> {
    let mut containers = node.store.containers.all();
    containers.retain(|container| filter.is_none_or(|filter| matches(container, filter)));
    let remote = node.before_reading(&containers).await;
    let node = Arc::clone(node);
    usage::read(move |buffer| {
        let stats = containers.iter().map(|container| {
            let reading = node.reading(container, &remote, buffer);
            node.container_stats_of(container, &reading)
        });
        stats.collect()
    })
    .await
}

fn matches(container: &Container, filter: &ContainerStatsFilter) -> bool {
    container.id().as_str().starts_with(&filter.id)
        && container.sandbox().as_str().starts_with(&filter.pod_sandbox_id)
        && selects(&filter.label_selector, &container.record.config.labels)
}
