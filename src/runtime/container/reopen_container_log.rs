//! ReopenContainerLog: kubelet has renamed the log and wants a new one.

use std::sync::Arc;

use crate::api::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::runtime::lookup::require_running;
use crate::runtime::{Error, Node, Result};

/// Goes on in a new file, also when the one before could not be opened. On an error the old one stays in use and no new one
/// is left.
///
/// # Errors
/// [`Error::State`] unless the container runs; [`Error::Io`] when the file cannot be made.
pub async fn reopen_container_log(
    node: &Arc<Node>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse> {
    let container = node.container(&request.container_id)?;
    require_running(&container)?;
    // Also when they could not be had until now.
    let streams = node.found_streams(&container).await?;
    streams.reopen_log().await.map_err(|source| Error::Io { id: container.id().to_string(), source })?;
    Ok(ReopenContainerLogResponse {})
}
