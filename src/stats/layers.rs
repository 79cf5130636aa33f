//! What containers' writable layers take on disk.
//!
//! A snapshotter walks a layer's files to know, so no call waits for it: layers are measured in the background when somebody
//! asks and what is known is no longer fresh. A layer that does not change is measured ever more seldom, and one that took
//! long to measure too.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::containerd::{Containerd, Usage};
use crate::tasks::Tasks;

/// What a call waits for a layer that was never measured; it is an answer without it after that.
const PATIENCE: Duration = Duration::from_millis(50);
/// A layer that changed is measured again after this, when somebody asks.
const FRESH: Duration = Duration::from_secs(10);
/// The longest such time of one that does not change.
const FRESH_LIMIT: Duration = Duration::from_secs(60);
/// Of the time, at most one in so many parts goes into measuring one layer.
const SHARE: u32 = 20;
/// A walk is given up after this.
const LONGEST: Duration = Duration::from_secs(10);
const MEASURED_AT_ONCE: usize = 4;

/// Sizes of writable layers. Clones share them.
#[derive(Clone)]
pub struct Layers {
    inner: Arc<Inner>,
}

struct Inner {
    containerd: Containerd,
    tasks: Tasks,
    state: Mutex<State>,
    /// How many rounds of measuring have ended.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    by_id: HashMap<LayerId, Measured>,
    /// Where snapshotters keep their data.
    roots: HashMap<String, PathBuf>,
    is_running: bool,
}

/// A snapshot of a snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerId {
    /// The snapshotter.
    pub snapshotter: String,
    /// The snapshot's key: the container's id.
    pub key: String,
}

/// A layer's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// When it was measured, in nanoseconds since the epoch.
    pub at: i64,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Where its snapshotter keeps its data; `None` when that is not known.
    pub root: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct Measured {
    /// `None` when it could not be measured.
    known: Option<(i64, Usage)>,
    at: Instant,
    fresh: Duration,
}

impl Layers {
    pub(super) fn new(containerd: Containerd, tasks: Tasks) -> Self {
        let inner = Inner { containerd, tasks, state: Mutex::default(), rounds: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Has those measured that are not fresh. Waits a moment when one of them never was, and never for long.
    pub async fn refresh(&self, wanted: Vec<LayerId>) {
        let (stale, is_new) = {
            let mut state = self.inner.lock();
            let is_new = wanted.iter().any(|id| !state.by_id.contains_key(id));
            if state.is_running && !is_new {
                return;
            }
            let stale: Vec<LayerId> = wanted.into_iter().filter(|id| state.is_stale(id)).collect();
            let begins = !state.is_running && !stale.is_empty();
            state.is_running |= begins;
            (begins.then_some(stale), is_new)
        };
        let mut rounds = self.inner.rounds.subscribe();
        if let Some(stale) = stale {
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.background(async move { inner.round(stale).await });
        }
        if is_new {
            let _ = tokio::time::timeout(PATIENCE, rounds.changed()).await;
        }
    }

    /// What is known of a layer.
    #[must_use]
    pub fn get(&self, id: &LayerId) -> Option<Layer> {
        let state = self.inner.lock();
        let (at, usage) = state.by_id.get(id)?.known?;
        Some(Layer { at, bytes: usage.bytes, inodes: usage.inodes, root: state.roots.get(&id.snapshotter).cloned() })
    }

    /// Where a snapshotter keeps its data, when that is known.
    #[must_use]
    pub fn root(&self, snapshotter: &str) -> Option<PathBuf> {
        self.inner.lock().roots.get(snapshotter).cloned()
    }

    /// Lets all measures go: nobody asks any more.
    pub(super) fn forget(&self) {
        self.inner.lock().by_id = HashMap::new();
    }
}

impl State {
    fn is_stale(&self, id: &LayerId) -> bool {
        self.by_id.get(id).is_none_or(|measured| measured.at.elapsed() >= measured.fresh)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn round(&self, stale: Vec<LayerId>) {
        self.find_roots(&stale).await;
        stream::iter(stale).for_each_concurrent(MEASURED_AT_ONCE, |id| self.measure(id)).await;
        self.lock().is_running = false;
        self.rounds.send_modify(|rounds| *rounds = rounds.wrapping_add(1));
    }

    async fn measure(&self, id: LayerId) {
        let began = Instant::now();
        let asking = self.containerd.snapshot_usage(&id.snapshotter, &id.key);
        // Nothing is hurt by dropping a question; containerd then stops its walk.
        let answer = tokio::time::timeout(LONGEST, asking).await;
        if matches!(&answer, Ok(Err(error)) if error.is_not_found()) {
            self.lock().by_id.remove(&id);
            return;
        }
        let usage = answer.ok().and_then(Result::ok);
        let known = usage.map(|usage| (i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX), usage));
        let mut state = self.lock();
        let before = state.by_id.get(&id).copied();
        let fresh = freshness(before, usage, began.elapsed());
        let known = known.or_else(|| before.and_then(|before| before.known));
        state.by_id.insert(id, Measured { known, at: Instant::now(), fresh });
    }

    async fn find_roots(&self, wanted: &[LayerId]) {
        let is_known = {
            let state = self.lock();
            wanted.iter().all(|id| state.roots.contains_key(&id.snapshotter))
        };
        if is_known {
            return;
        }
        let Ok(plugins) = self.containerd.plugins().await else { return };
        let mut state = self.lock();
        for plugin in plugins.iter().filter(|plugin| plugin.kind == "io.containerd.snapshotter.v1") {
            // What does not tell keeps its data where containerd has it by default.
            let standard = || format!("/var/lib/containerd/io.containerd.snapshotter.v1.{}", plugin.id);
            let root = plugin.exports.get("root").cloned().unwrap_or_else(standard);
            state.roots.insert(plugin.id.clone(), root.into());
        }
    }
}

/// How long a measure is good for.
fn freshness(before: Option<Measured>, usage: Option<Usage>, took: Duration) -> Duration {
    let same = before.filter(|before| usage.is_some() && before.known.map(|(_, usage)| usage) == usage);
    let fresh = same.map_or(FRESH, |before| (before.fresh * 2).min(FRESH_LIMIT));
    fresh.max(took * SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(bytes: u64, fresh: u64) -> Option<Measured> {
        let usage = Usage { bytes, inodes: 1 };
        Some(Measured { known: Some((1, usage)), at: Instant::now(), fresh: Duration::from_secs(fresh) })
    }

    #[test]
    fn what_does_not_change_is_measured_ever_more_seldom() {
        let (usage, quick) = (Some(Usage { bytes: 5, inodes: 1 }), Duration::from_millis(1));
        assert_eq!(freshness(None, usage, quick), FRESH);
        assert_eq!(freshness(measured(5, 10), usage, quick), FRESH * 2);
        assert_eq!(freshness(measured(5, 50), usage, quick), FRESH_LIMIT);
        assert_eq!(freshness(measured(6, 60), usage, quick), FRESH);
    }

    #[test]
    fn measuring_takes_a_twentieth_of_the_time_at_most() {
        let slow = Duration::from_secs(8);
        assert_eq!(freshness(None, Some(Usage::default()), slow), slow * 20);
        assert_eq!(freshness(None, None, Duration::from_secs(10)), Duration::from_secs(200));
    }
}
