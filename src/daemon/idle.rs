//! After a busy time, memory goes back to the kernel: what a storm of pods took at its height would otherwise stay the
//! daemon's, in pieces that depend on how the storm went, and as the room that a connection had for so many calls.

use std::time::Duration;

use crate::containerd::Containerd;
use crate::sys::heap;
use crate::tasks::Tasks;

/// No operation starts or ends for so long: the storm is over. Those that run on, such as the sessions of clients, may do so for
/// hours.
const QUIET: Duration = Duration::from_secs(5);

/// A connection that nobody uses any more is closed by then.
const CLOSING: Duration = Duration::from_millis(100);

/// Watches for the end of busy times. Costs nothing while nothing happens.
pub(super) fn give_memory_back(tasks: &Tasks, containerd: Containerd) {
    let (tasks, mut started) = (tasks.clone(), tasks.started());
    tasks.clone().background(async move {
        while started.changed().await.is_ok() {
            let mut given_back_at = None;
            loop {
                let before = tasks.in_flight();
                let began = tokio::time::timeout(QUIET, started.changed()).await.is_ok();
                if began || tasks.in_flight() != before {
                    given_back_at = None;
                } else if given_back_at != Some(before) {
                    containerd.renew();
                    // What the old connection held, when it has closed.
                    tokio::time::sleep(CLOSING).await;
                    heap::give_back();
                    given_back_at = Some(before);
                }
                if given_back_at == Some(0) {
                    break;
                }
            }
        }
    });
}
