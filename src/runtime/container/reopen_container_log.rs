//! ReopenContainerLog: kubelet has renamed the log and expects a new file.

use std::sync::Arc;

use crate::api::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::runtime::lookup::require_running;
use crate::runtime::{Error, Node, Result};

/// Continues the log in a new file, even if the previous one could not be opened. On an error the previous file stays
/// in use, and no new one is left behind.
///
/// # Errors
/// [`Error::State`] unless the container is running; [`Error::Io`] if the file cannot be created.
pub async fn reopen_container_log(
    node: &Arc<Node>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse> {
    let container = node.container(&request.container_id)?;
    require_running(&container)?;
    // This also finds streams that could not be reopened until now.
    let streams = node.found_streams(&container).await?;
    streams.reopen_log().await.map_err(|source| Error::Io { id: container.id().to_string(), source })?;
    Ok(ReopenContainerLogResponse {})
}
