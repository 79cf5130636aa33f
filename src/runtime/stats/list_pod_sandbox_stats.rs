//! ListPodSandboxStats: calls no shims except those of virtual machines, and waits only briefly for containerd
//! (`usage.rs`).

use std::sync::Arc;

use crate::api::v1::{PodSandboxStats, PodSandboxStatsFilter};
use crate::runtime::Node;
use crate::runtime::sandbox::list_pod_sandbox::selects;
use crate::runtime::stats::usage;

/// What ready pods use now. The parts of the filter are ANDed, and its id may be shortened.
pub async fn list_pod_sandbox_stats(node: &Arc<Node>, filter: Option<&PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
    let mut sandboxes = node.store.sandboxes.all();
    sandboxes.retain(|sandbox| {
        let selected = filter.is_none_or(|filter| {
            sandbox.id().as_str().starts_with(&filter.id)
                && selects(&filter.label_selector, &sandbox.record.config.labels)
        });
        selected && sandbox.state().is_ready()
    });
    let mut by_sandbox = node.containers_by_sandbox();
    let pods: Vec<_> = sandboxes
        .into_iter()
        .map(|sandbox| {
            let containers = by_sandbox.remove(sandbox.id().as_str()).unwrap_or_default();
            (sandbox, containers)
        })
        .collect();
    let containers: Vec<_> = pods.iter().flat_map(|(_, containers)| containers).cloned().collect();
    let remote = node.before_reading(&containers).await;
    let node = Arc::clone(node);
    usage::read(move |buffer| {
        let stats = pods.iter().map(|(sandbox, containers)| node.pod_stats_of(sandbox, containers, &remote, buffer));
        stats.collect()
    })
    .await
}
