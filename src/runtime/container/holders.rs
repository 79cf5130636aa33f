//! Names the processes of the host that hold up a removal: kubelet's deadline alone would not say which they are.

use std::time::Duration;

use crate::container::{self, Container, Holder};
use crate::containerd;
use crate::runtime::{Error, Result};

/// How long the deletion of a task takes at most, unless a process holds it up.
const FIRST_WAIT: Duration = Duration::from_millis(1500);
/// Pause between two searches for such processes.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Waits until the task of a container that has ended is deleted from containerd.
///
/// # Errors
/// [`Error::RootBusy`] if that takes long and processes are in the container's root file system. The task's owner keeps
/// trying to delete it: repeat the removal.
pub(crate) async fn wait_until_deleted(container: &Container) -> Result<()> {
    let mut wait = FIRST_WAIT;
    while tokio::time::timeout(wait, container.task().gone()).await.is_err() {
        if let Some(error) = held_error(container).await {
            return Err(error);
        }
        wait = LOOK_AGAIN;
    }
    Ok(())
}

/// The result of a step of a removal. If processes have made it fail, the error names them.
///
/// # Errors
/// [`Error::RootBusy`] instead of containerd's error, if processes are in the container's root file system.
pub(crate) async fn with_holders(container: &Container, step: containerd::Result<()>) -> Result<()> {
    match step {
        Ok(()) => Ok(()),
        Err(error) => Err(held_error(container).await.unwrap_or(error.into())),
    }
}

async fn held_error(container: &Container) -> Option<Error> {
    let holders = container::holders(container.id()).await;
    if holders.is_empty() {
        return None;
    }
    let holders = holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
    Some(Error::RootBusy { id: container.id().to_string(), holders })
}
