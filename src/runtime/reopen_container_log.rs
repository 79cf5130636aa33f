//! ReopenContainerLog: kubelet has renamed the log and wants a new one.

use std::sync::Arc;

use super::{Error, Node, Result};
use crate::api::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use crate::container::State;

/// Goes on in a new file. On an error the old one stays in use and no new one is left.
///
/// # Errors
/// [`Error::State`] unless the container runs; [`Error::Io`] when the file cannot be made.
pub async fn reopen_container_log(
    node: &Arc<Node>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse> {
    let container = node.container(&request.container_id)?;
    let state = container.state();
    let streams = container.streams().filter(|_| matches!(state, State::Running { .. }));
    let streams = streams.ok_or_else(|| Error::State {
        kind: "container",
        id: container.id().to_string(),
        state: state.name().to_owned(),
        wanted: "running",
    })?;
    streams.reopen_log().await.map_err(|source| Error::Io { id: container.id().to_string(), source })?;
    Ok(ReopenContainerLogResponse {})
}
