//! Returns memory to the kernel after a busy time. Otherwise the daemon would keep what a burst of pods needed at its
//! peak: as heap fragments, whose size depends on the order of the burst's calls, and as connection buffers sized for
//! that many calls.

use std::time::Duration;

use crate::containerd::Containerd;
use crate::sys::heap;
use crate::tasks::Tasks;

/// When no operation starts or ends for this long, the burst is over. Operations that are still running, such as the
/// sessions of clients, may do so for hours.
const QUIET: Duration = Duration::from_secs(5);

/// An unused connection is closed within this time.
const CLOSING: Duration = Duration::from_millis(100);

/// Watches for the end of busy times. Costs nothing while no operation starts.
pub(super) fn when_idle(tasks: &Tasks, containerd: Containerd) {
    let (tasks, mut started) = (tasks.clone(), tasks.started());
    tasks.clone().background(async move {
        while started.changed().await.is_ok() {
            let mut released_at = None;
            loop {
                let before = tasks.in_flight();
                let began = tokio::time::timeout(QUIET, started.changed()).await.is_ok();
                if began || tasks.in_flight() != before {
                    released_at = None;
                } else if released_at != Some(before) {
                    containerd.renew();
                    // By then the old connection has closed and freed its buffers.
                    tokio::time::sleep(CLOSING).await;
                    heap::trim();
                    released_at = Some(before);
                }
                if released_at == Some(0) {
                    break;
                }
            }
        }
    });
}
