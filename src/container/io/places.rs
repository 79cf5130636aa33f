//! How many threads may wait for the logs' disks.
//!
//! A call on a file system that hangs keeps its thread, past every signal. So each that opens or writes a log is counted, among
//! its pod's and, when it is one of tokio's, among all: a pod whose log hangs has its own share waiting and nobody else's. A pod
//! is known by its log directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Of all streams together, of the 512 threads that tokio has: a disk that hangs under every log must leave threads for
/// everything else.
const IN_ALL: usize = 256;
/// Of one pod: as one container's two streams need. The pods that a node has by default, 110, have less than all with it.
const OF_A_POD: usize = 2;

static ALL: Semaphore = Semaphore::const_new(IN_ALL);
static PODS: Mutex<Option<HashMap<PathBuf, Weak<Semaphore>>>> = Mutex::new(None);

/// A pod's share.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<Semaphore>);

/// Held by a thread until it returns. The semaphores are never closed.
pub(super) type OfPod = Option<OwnedSemaphorePermit>;
pub(super) type OfAll = (OfPod, Option<SemaphorePermit<'static>>);

impl Share {
    /// That of the pod with this log directory.
    pub(super) fn of(directory: &Path) -> Self {
        let mut pods = PODS.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = pods.get_or_insert_default();
        if let Some(share) = pods.get(directory).and_then(Weak::upgrade) {
            return Self(share);
        }
        // A pod comes seldom enough to look at all of them.
        pods.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(OF_A_POD));
        pods.insert(directory.to_owned(), Arc::downgrade(&share));
        Self(share)
    }

    /// A place for a thread of its own.
    pub(super) async fn place(&self) -> OfPod {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// A place for one of tokio's threads, which works for a stream of the pod with this share; one without a log has none.
pub(super) async fn of_all(share: Option<&Share>) -> OfAll {
    // The pod's first: a stream that waits for its pod's disk keeps none of all others' places.
    let of_pod = match share {
        Some(share) => share.place().await,
        None => None,
    };
    (of_pod, ALL.acquire().await.ok())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn t8_a_pods_places_are_its_own() {
        let (hung, well) = (Share::of(Path::new("/logs/hung")), Share::of(Path::new("/logs/well")));
        let held = (hung.place().await, of_all(Some(&hung)).await);
        let again = Share::of(Path::new("/logs/hung"));
        assert!(again.place().now_or_never().is_none() && of_all(Some(&again)).now_or_never().is_none());
        let _well = (well.place().await, of_all(Some(&well)).await, of_all(None).await);
        drop(held);
        again.place().await;
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let share = Share::of(Path::new("/logs/gone"));
        drop(share);
        let _other = Share::of(Path::new("/logs/another"));
        let pods = PODS.lock().unwrap();
        assert!(!pods.as_ref().unwrap().contains_key(Path::new("/logs/gone")));
    }
}
