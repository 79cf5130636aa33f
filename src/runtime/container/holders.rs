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
    let (mut wait, mut before) = (FIRST_WAIT, Vec::new());
    while tokio::time::timeout(wait, container.task().gone()).await.is_err() {
        let found = container::holders(container.id()).await;
        if let Some(error) = busy(container, lasting(&found, &before)) {
            return Err(error);
        }
        (wait, before) = (LOOK_AGAIN, found);
    }
    Ok(())
}

/// The holders that have to be waited for: not those that may be gone in a moment, unless they were there before.
fn lasting<'a>(found: &'a [Holder], before: &'a [Holder]) -> impl Iterator<Item = &'a Holder> {
    found.iter().filter(|holder| !holder.may_be_brief() || before.contains(holder))
}

/// The result of a step of a removal. If processes have made it fail, the error names them.
///
/// # Errors
/// [`Error::RootBusy`] instead of containerd's error, if processes are in the container's root file system.
pub(crate) async fn with_holders(container: &Container, step: containerd::Result<()>) -> Result<()> {
    match step {
        Ok(()) => Ok(()),
        Err(error) => {
            let found = container::holders(container.id()).await;
            Err(busy(container, found.iter()).unwrap_or(error.into()))
        }
    }
}

fn busy<'a>(container: &Container, holders: impl Iterator<Item = &'a Holder>) -> Option<Error> {
    let holders = holders.map(Holder::to_string).collect::<Vec<_>>().join(", ");
    (!holders.is_empty()).then(|| Error::RootBusy { id: container.id().to_string(), holders })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, by: &'static str) -> Holder {
        Holder { pid, name: "runc:[2:INIT]".to_owned(), by }
    }

    #[test]
    fn a_process_that_starts_another_container_is_not_what_holds_up_a_removal() {
        let (starting, inside) = (holder(7, "mounts"), holder(8, "open file"));
        let found = [starting.clone(), inside.clone()];
        assert_eq!(lasting(&found, &[]).collect::<Vec<_>>(), [&inside]);
        // Other containers may be started one after the other, each by another process.
        assert_eq!(lasting(&found, &[holder(6, "mounts")]).collect::<Vec<_>>(), [&inside]);
        assert_eq!(lasting(&found, &found).collect::<Vec<_>>(), [&starting, &inside]);
    }
}
