//! What snapshots take on disk, by what was last measured.
//!
//! A committed snapshot never changes and is measured once. Of a writable one the snapshotter walks every file, so it is
//! asked again the later the longer nothing has changed there: a container that writes every ten seconds, one that is
//! idle or has ended hardly ever.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::containerd::{SnapshotInfo, SnapshotKind, Usage};

/// kubelet asks every ten seconds; it gets the same answer in between.
const SHORTEST: Duration = Duration::from_secs(10);
/// After so long a writable snapshot is walked again even if it has never changed: half of the five minutes between two
/// rounds of kubelet's garbage collection.
const LONGEST: Duration = Duration::from_secs(160);

/// The snapshots of one snapshotter.
#[derive(Default)]
pub(super) struct Usages {
    // Held for map lookups only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None before the first list.
    listed_at: Option<i64>,
    known: HashMap<String, Measured>,
}

#[derive(Clone, Copy)]
struct Measured {
    usage: Usage,
    at: Instant,
    /// Until it is measured again; none for what cannot change.
    pause: Option<Duration>,
}

impl Usages {
    /// Forgets what is gone and says what is to be measured: first what never was, then what was longest ago.
    pub(super) fn due(&self, snapshots: &[SnapshotInfo], now: i64) -> Vec<SnapshotInfo> {
        let mut state = self.lock();
        let there: HashSet<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        state.known.retain(|key, _| there.contains(key.as_str()));
        state.listed_at = Some(now);
        let is_due = |snapshot: &&SnapshotInfo| match state.known.get(&snapshot.name) {
            None => true,
            Some(measured) => measured.pause.is_some_and(|pause| measured.at.elapsed() >= pause),
        };
        let mut due: Vec<SnapshotInfo> = snapshots.iter().filter(is_due).cloned().collect();
        due.sort_by_key(|snapshot| state.known.get(&snapshot.name).map(|measured| measured.at));
        due
    }

    /// Takes in what was measured.
    pub(super) fn set(&self, snapshot: &SnapshotInfo, usage: Usage) {
        let mut state = self.lock();
        let before = state.known.get(&snapshot.name);
        let pause = match before.and_then(|before| Some((before.usage, before.pause?))) {
            _ if snapshot.kind == SnapshotKind::Committed => None,
            Some((was, pause)) if was == usage => Some((pause * 2).min(LONGEST)),
            Some(_) | None => Some(SHORTEST),
        };
        state.known.insert(snapshot.name.clone(), Measured { usage, at: Instant::now(), pause });
    }

    /// All of them together, and when they were last listed; none before the first time.
    pub(super) fn sum(&self) -> Option<(Usage, i64)> {
        let state = self.lock();
        let sum = state.known.values().fold(Usage::default(), |sum, measured| Usage {
            bytes: sum.bytes.saturating_add(measured.usage.bytes),
            inodes: sum.inodes.saturating_add(measured.usage.inodes),
        });
        Some((sum, state.listed_at?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, kind: SnapshotKind) -> SnapshotInfo {
        SnapshotInfo { name: name.to_owned(), parent: String::new(), kind, created_at: 0 }
    }

    fn bytes(bytes: u64) -> Usage {
        Usage { bytes, inodes: 1 }
    }

    fn names(due: &[SnapshotInfo]) -> Vec<&str> {
        due.iter().map(|snapshot| snapshot.name.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_change_is_walked_ever_less_often() {
        let (usages, root) = (Usages::default(), [snapshot("root", SnapshotKind::Active)]);
        let mut walks = Vec::new();
        for second in 0..600 {
            for due in usages.due(&root, 1) {
                walks.push(second);
                usages.set(&due, bytes(5));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(walks, [0, 10, 30, 70, 150, 310, 470]);
        // And one that changed, soon again.
        tokio::time::sleep(LONGEST).await;
        usages.set(&usages.due(&root, 1)[0], bytes(6));
        tokio::time::sleep(SHORTEST).await;
        assert_eq!(names(&usages.due(&root, 1)), ["root"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_is_measured_once_and_what_never_was_comes_first() {
        let usages = Usages::default();
        let (layer, old) = (snapshot("layer", SnapshotKind::Committed), snapshot("old", SnapshotKind::Active));
        usages.set(&layer, bytes(100));
        usages.set(&old, bytes(10));
        tokio::time::sleep(LONGEST * 10).await;
        let all = [old.clone(), layer, snapshot("new", SnapshotKind::Active)];
        assert_eq!(names(&usages.due(&all, 7)), ["new", "old"]);
        assert_eq!(usages.sum(), Some((Usage { bytes: 110, inodes: 2 }, 7)));
        assert_eq!(names(&usages.due(&[old], 8)), ["old"]);
        assert_eq!(usages.sum(), Some((bytes(10), 8)), "what is gone takes nothing");
    }
}
