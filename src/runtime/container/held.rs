//! A removal that a process of the host holds up says so: kubelet's deadline alone would name nobody.

use std::time::Duration;

use crate::container::{self, Container, Holder};
use crate::containerd;
use crate::runtime::{Error, Result};

/// How long the deletion of a task takes at most, unless something holds it up.
const USUAL: Duration = Duration::from_millis(1500);
/// Between two looks at who does.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Waits until containerd's task of a container that has ended is deleted.
///
/// # Errors
/// [`Error::Held`] when that takes long and processes are in its root file system. Its deletion is tried on and on: repeat the
/// removal.
pub(crate) async fn cleaned(container: &Container) -> Result<()> {
    let mut patience = USUAL;
    while tokio::time::timeout(patience, container.task().gone()).await.is_err() {
        if let Some(held) = held(container).await {
            return Err(held);
        }
        patience = LOOK_AGAIN;
    }
    Ok(())
}

/// What came of a step of a removal, with those that it failed for.
///
/// # Errors
/// [`Error::Held`] instead of containerd's, when processes are in the container's root file system.
pub(crate) async fn named(container: &Container, step: containerd::Result<()>) -> Result<()> {
    match step {
        Ok(()) => Ok(()),
        Err(error) => Err(held(container).await.unwrap_or(error.into())),
    }
}

async fn held(container: &Container) -> Option<Error> {
    let holders = container::holders(container.id()).await;
    if holders.is_empty() {
        return None;
    }
    let holders = holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
    Some(Error::Held { id: container.id().to_string(), holders })
}
