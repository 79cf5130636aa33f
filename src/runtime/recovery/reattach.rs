//! The streams of a container that ran on while no daemon was running.

use std::sync::Arc;
use std::time::Duration;

use crate::container::io::Streams;
use crate::container::{Container, State};
use crate::runtime::lookup::require_running;
use crate::runtime::{Error, Node, Result};

/// The first pause between two attempts; each further one is twice as long.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

impl Node {
    /// Continues a container's log. If that fails, for example because of too many open files, it is tried again as
    /// long as the container runs. The container blocks once its FIFO is full. (The streams themselves deal with a log
    /// file that cannot be opened.)
    pub(crate) async fn reattach(self: &Arc<Self>, container: &Arc<Container>) {
        let Err(error) = self.found_streams(container).await else { return };
        tracing::error!(error = error.chain(), "the container's log cannot be continued yet");
        let (node, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.background(async move {
            let mut pause = RETRY;
            while container.in_state(State::is_alive) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LIMIT);
                match node.found_streams(&container).await {
                    Ok(_) => return tracing::info!("the container's log continues"),
                    Err(error) => {
                        tracing::debug!(error = error.chain(), "the container's log still cannot be continued")
                    }
                }
            }
        });
    }

    /// The streams of a running container: those it has, or else those that are reopened now.
    ///
    /// # Errors
    /// [`Error::Io`] if its FIFOs cannot be opened, [`Error::State`] if it has ended.
    pub(crate) async fn found_streams(&self, container: &Container) -> Result<Arc<Streams>> {
        // A FIFO must have only one reader: each of two would get a part of the bytes.
        let _one = container.lock_stream_lookup().await;
        if let Some(streams) = container.streams() {
            return Ok(streams);
        }
        let found = self.streams_config(container).and_then(|config| self.streams.reattach(config));
        let streams = found.map_err(|source| Error::Io { id: container.id().to_string(), source })?;
        require_running(container)?;
        container.set_streams(Some(Arc::clone(&streams)));
        Ok(streams)
    }
}
