//! What is large is in memory a few times at once, whoever made it so: the parsed form of a record of 14 MiB takes some ten
//! times as much. Whoever works on such a container waits for its turn; all others never do.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Node, Result};
use crate::container::{Container, KeptSpec};

/// How many large containers are made, changed, or have a command begun in them at a time.
const AT_ONCE: usize = 2;

/// Turns for what is large.
#[derive(Debug)]
pub struct Large(Arc<Semaphore>);

/// One's turn, until it is dropped; of what is small there is none.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Large {
    /// Waits for a turn, if it takes one.
    pub(super) async fn turn(&self, is_large: bool) -> Turn {
        // Never closed.
        if is_large { Arc::clone(&self.0).acquire_owned().await.ok() } else { None }
    }
}

/// An OCI spec with nothing left out, as JSON. While a large one is here, it has a turn.
pub(super) struct WholeSpec {
    spec: Arc<KeptSpec>,
    _turn: Turn,
}

impl Deref for WholeSpec {
    type Target = Arc<KeptSpec>;

    fn deref(&self) -> &Arc<KeptSpec> {
        &self.spec
    }
}

impl Node {
    /// A container's whole spec: from memory, or a large one from containerd.
    ///
    /// # Errors
    /// containerd's, when it cannot give a large one.
    pub(super) async fn whole_spec(&self, container: &Container) -> Result<WholeSpec> {
        let kept = container.spec();
        if kept.is_whole {
            return Ok(WholeSpec { spec: kept, _turn: None });
        }
        let turn = self.large.turn(true).await;
        let record = self.containerd.get_container(container.id().as_str()).await?;
        let json = record.spec.map(|spec| spec.value).unwrap_or_default();
        Ok(WholeSpec { spec: Arc::new(KeptSpec { json, is_whole: true }), _turn: turn })
    }
}

/// One that cannot be read: what was tried, and why it failed.
pub(super) fn unreadable(operation: &'static str, error: serde_json::Error) -> Error {
    Error::System { operation, path: "OCI spec".to_owned(), source: error.into() }
}
