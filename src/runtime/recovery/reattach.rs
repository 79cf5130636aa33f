//! The streams of a container that ran on while the daemon was away.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::lookup::require_running;
use crate::runtime::{Error, Node, Result};
use crate::container::io::{self, Streams};
use crate::container::{Container, State};

/// The first pause between two tries; each is twice as long as the one before.
const RETRY: Duration = Duration::from_secs(1);
/// The longest.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

impl Node {
    /// Goes on with a container's log. What keeps it from that, such as too many open files, is tried again for as long as
    /// the container runs: it waits once its FIFO is full. (A log that cannot be opened is for the streams themselves.)
    pub(crate) async fn reattach(self: &Arc<Self>, container: &Arc<Container>) {
        let Err(error) = self.found_streams(container).await else { return };
        tracing::error!(container = %container.id(), error = error.chain(), "its log cannot go on yet");
        let (node, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.background(async move {
            let mut pause = RETRY;
            while container.in_state(State::is_alive) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LIMIT);
                match node.found_streams(&container).await {
                    Ok(_) => return tracing::info!(container = %container.id(), "its log goes on"),
                    Err(error) => tracing::debug!(container = %container.id(), error = error.chain(), "not yet"),
                }
            }
        });
    }

    /// The streams of a container that runs: those it has, else those that are found again now.
    ///
    /// # Errors
    /// [`Error::Io`] when its FIFOs cannot be opened, [`Error::State`] when it has ended.
    pub(crate) async fn found_streams(&self, container: &Container) -> Result<Arc<dyn Streams>> {
        // A stream has one reader: two would share its bytes out between them.
        let _one = container.finding_streams().await;
        if let Some(streams) = container.streams() {
            return Ok(streams);
        }
        let found = async { self.streams.reattach(self.streams_config(container)?).await };
        let found: io::Result<_> = found.await;
        let streams = found.map_err(|source| Error::Io { id: container.id().to_string(), source })?;
        require_running(container)?;
        container.set_streams(Some(Arc::clone(&streams)));
        Ok(streams)
    }
}
