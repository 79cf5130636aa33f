//! After a busy time, memory goes back to the kernel: what a storm of pods took at its height would otherwise stay the
//! daemon's, in pieces that depend on how the storm went.

use std::time::Duration;

use crate::sys::heap;
use crate::tasks::Tasks;

/// No operation starts or ends for so long: the storm is over. Those that run on, such as the sessions of clients, may do so for
/// hours.
const QUIET: Duration = Duration::from_secs(5);

/// Watches for the end of busy times. Costs nothing while nothing happens.
pub(super) fn give_memory_back(tasks: &Tasks) {
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
