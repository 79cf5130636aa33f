//! Limits how many threads may wait for the disks of logs.
//!
//! A call on a file system that hangs occupies its thread, and no signal ends it. So each thread that opens or writes
//! a log is counted: for its pod, and, if it is one of tokio's, also in total. If the log of a pod hangs, only the
//! pod's own share is used up. A pod is identified by its log directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::mutex::Mutex;

/// Limit for all streams together, of tokio's 512 threads: if a disk under every log hangs, enough threads for
/// everything else must remain.
const TOTAL_LIMIT: usize = 256;
/// Limit for one pod, as many as the two streams of a container need. The 110 pods that a node has by default stay
/// below the total.
const POD_LIMIT: usize = 2;

static ALL: Semaphore = Semaphore::const_new(TOTAL_LIMIT);
static PODS: Mutex<Option<HashMap<PathBuf, Weak<Semaphore>>>> = Mutex::new(None);

/// The permits of one pod.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<Semaphore>);

/// Held by a thread until it returns. Acquiring a permit never fails, because the semaphores are never closed: `None`
/// means a stream without a log.
pub(super) type PodPermit = Option<OwnedSemaphorePermit>;
pub(super) type StreamPermits = (PodPermit, Option<SemaphorePermit<'static>>);

impl Share {
    /// The share of the pod with this log directory.
    pub(super) fn of(directory: &Path) -> Self {
        let mut pods = PODS.lock();
        let pods = pods.get_or_insert_default();
        if let Some(share) = pods.get(directory).and_then(Weak::upgrade) {
            return Self(share);
        }
        // New pods are rare enough to scan all entries here.
        pods.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(POD_LIMIT));
        pods.insert(directory.to_owned(), Arc::downgrade(&share));
        Self(share)
    }

    /// Waits for a permit for a dedicated thread.
    pub(super) async fn permit(&self) -> PodPermit {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// Waits for the permits for one of tokio's threads, which works for a stream. `share` is that of the stream's pod; a
/// stream without a log has none.
pub(super) async fn permits(share: Option<&Share>) -> StreamPermits {
    // The pod's permit first: a stream that waits for its pod's disk must not hold a permit of the total meanwhile.
    let pod_permit = match share {
        Some(share) => share.permit().await,
        None => None,
    };
    (pod_permit, ALL.acquire().await.ok())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn t8_a_pods_places_are_its_own() {
        let (hung, well) = (Share::of(Path::new("/logs/hung")), Share::of(Path::new("/logs/well")));
        let held = (hung.permit().await, permits(Some(&hung)).await);
        let again = Share::of(Path::new("/logs/hung"));
        assert!(again.permit().now_or_never().is_none() && permits(Some(&again)).now_or_never().is_none());
        let _well = (well.permit().await, permits(Some(&well)).await, permits(None).await);
        drop(held);
        again.permit().await;
    }

    #[test]
    fn the_share_of_a_pod_that_is_gone_is_forgotten() {
        let share = Share::of(Path::new("/logs/gone"));
        drop(share);
        let _other = Share::of(Path::new("/logs/another"));
        let pods = PODS.lock();
        assert!(!pods.as_ref().unwrap().contains_key(Path::new("/logs/gone")));
    }
}
