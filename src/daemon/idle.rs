//! After a busy time, memory goes back to the kernel: what a storm of pods took at its height would otherwise stay the
//! daemon's, in pieces that depend on how the storm went.

use std::time::Duration;

use crate::sys::heap;
use crate::tasks::Tasks;

/// No operation runs or starts for so long: the storm is over.
const QUIET: Duration = Duration::from_secs(5);

/// Watches for the end of busy times. Costs nothing while nothing happens.
pub(super) fn give_memory_back(tasks: &Tasks) {
    let (tasks, mut started) = (tasks.clone(), tasks.started());
    tasks.clone().background(async move {
        while started.changed().await.is_ok() {
            while tokio::time::timeout(QUIET, started.changed()).await.is_ok() || tasks.in_flight() > 0 {}
            heap::give_back();
        }
    });
}
