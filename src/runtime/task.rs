//! Small acts on containerd tasks that more than one verb needs.

use std::time::Duration;

use crate::containerd::{Containerd, Kind, Result};

/// SIGKILL's number.
pub(super) const SIGKILL: u32 = 9;
/// Between two tries to delete a task that will not go.
const RETRY: Duration = Duration::from_secs(1);
/// How often a task is killed and deleted before its deletion counts as failed.
const DESTROY_TRIES: u32 = 5;
/// The longest pause between two such tries.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Kills whatever runs of a task, waits for its end and deletes it. No task is a success.
///
/// Others may delete the same task at the same time, and a shim that goes with its last task breaks the calls that are
/// under way ("ttrpc: closed"): only Delete's own answer counts.
pub(super) async fn destroy(containerd: &Containerd, id: &str) -> Result<()> {
    let mut pause = Duration::from_millis(10);
    for _ in 1..DESTROY_TRIES {
        let killed = containerd.kill_task(id, "", SIGKILL).await;
        // Nobody waits for a process that was not told to end.
        let waited = if killed.is_ok() { Some(containerd.wait_task(id, "").await) } else { None };
        match containerd.delete_task(id).await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::debug!(task = id, ?killed, ?waited, %error, "not deleted yet"),
        }
        tokio::time::sleep(pause).await;
        pause *= 4;
    }
    containerd.delete_task(id).await.map(drop)
}

/// Deletes the task of a process that has ended, as often as it takes.
pub(super) async fn delete(containerd: &Containerd, id: &str) {
    let mut pause = RETRY;
    loop {
        match containerd.delete_task(id).await {
            Ok(_) => return,
            Err(error) => tracing::warn!(task = id, %error, "a task that has ended cannot be deleted yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LIMIT);
    }
}

/// Whether a call failed because the connection or containerd itself went, not because of the call.
pub(super) fn is_away(error: &crate::containerd::Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Cancelled)
}
