//! Keeps only a few large objects in memory at once, whichever tenants they belong to: the parsed form of a record of
//! 14 MiB takes about ten times as much. Work on a large container waits for a permit; work on any other never waits.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Node, Result};
use crate::container::{Container, SpecInMemory};

/// How many large containers may be created, changed, or have a command started in them at the same time.
const AT_ONCE: usize = 2;

/// The permits to work on large containers.
#[derive(Debug)]
pub struct Large(Arc<Semaphore>);

/// A permit, held until it is dropped; `None` for a small container.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Large {
    /// Waits for a permit if one is needed.
    pub(super) async fn permit(&self, is_large: bool) -> Permit {
        // The semaphore is never closed.
        if is_large { Arc::clone(&self.0).acquire_owned().await.ok() } else { None }
    }
}

/// A complete OCI spec as JSON. A large one holds a permit while it is in memory.
pub(super) struct WholeSpec {
    spec: Arc<SpecInMemory>,
    _permit: Permit,
}

impl Deref for WholeSpec {
    type Target = Arc<SpecInMemory>;

    fn deref(&self) -> &Arc<SpecInMemory> {
        &self.spec
    }
}

impl Node {
    /// A container's complete spec: from memory, or from containerd if it is large.
    ///
    /// # Errors
    /// containerd's error, if it cannot return a large one.
    pub(super) async fn whole_spec(&self, container: &Container) -> Result<WholeSpec> {
        let kept = container.spec();
        if kept.is_whole {
            return Ok(WholeSpec { spec: kept, _permit: None });
        }
        let permit = self.limits.large.permit(true).await;
        let record = self.containerd.get_container(container.id().as_str()).await?;
        let json = record.spec.map(|spec| spec.value).unwrap_or_default();
        Ok(WholeSpec { spec: Arc::new(SpecInMemory { json, is_whole: true }), _permit: permit })
    }
}

/// The error of a spec that cannot be decoded or encoded.
pub(super) fn unreadable(operation: &'static str, error: serde_json::Error) -> Error {
    Error::System { operation, path: "OCI spec".to_owned(), source: error.into() }
}
