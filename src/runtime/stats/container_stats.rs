//! ContainerStats: the usage of one container.

use std::sync::Arc;

use crate::api::v1::{ContainerStatsRequest, ContainerStatsResponse};
use crate::runtime::stats::usage;
use crate::runtime::{Node, Result};

/// What a container uses now. One that is not running has only its writable layer.
///
/// # Errors
/// [`crate::runtime::Error::Missing`] for an unknown id.
pub async fn container_stats(node: &Arc<Node>, request: &ContainerStatsRequest) -> Result<ContainerStatsResponse> {
    let container = node.container(&request.container_id)?;
    let remote = node.before_reading(std::slice::from_ref(&container)).await;
    let node = Arc::clone(node);
    let stats = usage::read(move |buffer| {
        let reading = node.reading(&container, &remote, buffer);
        node.container_stats_of(&container, &reading)
    });
    Ok(ContainerStatsResponse { stats: Some(stats.await) })
}
