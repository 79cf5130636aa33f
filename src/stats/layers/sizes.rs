//! The last measured sizes of layers, and the choice of layers to measure again. No I/O.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{LayerId, Wanted};
use crate::containerd::Usage;

/// A layer that changed is measured again after this time, if a call needs it. kubelet requests stats every ten
/// seconds.
const FRESH: Duration = Duration::from_secs(10);
/// The upper limit of this time for a layer that does not change.
const FRESH_LIMIT: Duration = Duration::from_secs(60);
/// Measuring one layer takes at most one part in this many of the time.
const SHARE: u32 = 20;
/// A layer that took this long to measure may have been filled with files on purpose. All such layers together get the
/// same share of slots as one other layer, so that the others still get slots.
const SLOW: Duration = Duration::from_secs(1);
/// A size that no call needed for this long is dropped after the next round of measurements.
const FORGOTTEN: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Sizes {
    by_id: HashMap<LayerId, Size>,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    /// The last successful measurement: when, in nanoseconds since the epoch, and the usage.
    last: Option<(i64, Usage)>,
    /// When a measurement was last tried; `None` before the first attempt.
    tried_at: Option<Instant>,
    /// How long the last attempt took.
    took: Duration,
    /// How long after `tried_at` the layer counts as up to date.
    fresh_for: Duration,
    is_being_measured: bool,
    /// When a call last needed the size.
    wanted_at: Instant,
}

impl Sizes {
    /// Returns the layers to measure now, and marks them as being measured: those that were never measured first, then
    /// those measured longest ago. The second list has all wanted layers that were never measured.
    pub(super) fn due(&mut self, wanted: Vec<Wanted>) -> (Vec<Wanted>, Vec<LayerId>) {
        let now = Instant::now();
        let (mut due, mut new) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let size = self.by_id.entry(wanted.id.clone()).or_insert_with(|| Size::unknown(now));
            size.wanted_at = now;
            if size.tried_at.is_none() {
                new.push(wanted.id.clone());
            }
            if size.is_due(now) {
                size.is_being_measured = true;
                due.push((size.tried_at, wanted));
            }
        }
        due.sort_by_key(|(tried, _)| *tried);
        (due.into_iter().map(|(_, wanted)| wanted).collect(), new)
    }

    /// Stores the result of a measurement (its time and the usage; `None` when it failed) and how long it took.
    pub(super) fn set(&mut self, wanted: &Wanted, measured: Option<(i64, Usage)>, took: Duration) {
        let now = Instant::now();
        let size = self.by_id.entry(wanted.id.clone()).or_insert_with(|| Size::unknown(now));
        let usage = |known: Option<(i64, Usage)>| known.map(|(_, usage)| usage);
        let is_same = measured.is_some() && usage(measured) == usage(size.last);
        size.fresh_for = match measured {
            Some(_) if !wanted.is_writable => Duration::MAX,
            _ if is_same => (size.fresh_for * 2).min(FRESH_LIMIT).max(took * SHARE),
            _ => FRESH.max(took * SHARE),
        };
        size.last = measured.or(size.last);
        size.tried_at = Some(now);
        size.took = took;
        size.is_being_measured = false;
    }

    /// Forgets a layer that no longer exists.
    pub(super) fn remove(&mut self, id: &LayerId) {
        self.by_id.remove(id);
    }

    /// Forgets the layers of a snapshotter whose keys are not in `keys`, because they no longer exist.
    pub(super) fn keep_only(&mut self, snapshotter: &str, keys: &HashSet<&str>) {
        self.by_id.retain(|id, _| id.snapshotter != snapshotter || keys.contains(id.key.as_str()));
    }

    /// Drops the sizes that no call has needed for [`FORGOTTEN`].
    pub(super) fn forget(&mut self) {
        self.by_id.retain(|_, size| size.is_being_measured || size.wanted_at.elapsed() < FORGOTTEN);
        self.by_id.shrink_to(2 * self.by_id.len());
    }

    /// Whether a first measurement has succeeded or failed, or the layer no longer exists.
    pub(super) fn was_tried(&self, id: &LayerId) -> bool {
        self.by_id.get(id).is_none_or(|size| size.tried_at.is_some())
    }

    /// The owner that a measuring slot is counted for: the layer's key, or one name for all slow layers.
    pub(super) fn share<'a>(&self, id: &'a LayerId) -> &'a str {
        let is_slow = self.by_id.get(id).is_some_and(|size| size.took >= SLOW);
        if is_slow { "slow" } else { &id.key }
    }

    /// The last known usage of a layer, and when it was measured.
    pub(super) fn get(&self, id: &LayerId) -> Option<(i64, Usage)> {
        self.by_id.get(id)?.last
    }

    /// The sum of the last known usages of all layers of a snapshotter.
    pub(super) fn sum(&self, snapshotter: &str) -> Usage {
        let known = self.by_id.iter().filter(|(id, _)| id.snapshotter == snapshotter).filter_map(|(_, size)| size.last);
        known.fold(Usage::default(), |sum, (_, usage)| Usage {
            bytes: sum.bytes.saturating_add(usage.bytes),
            inodes: sum.inodes.saturating_add(usage.inodes),
        })
    }
}

impl Size {
    fn unknown(now: Instant) -> Self {
        Self {
            last: None,
            tried_at: None,
            took: Duration::ZERO,
            fresh_for: Duration::ZERO,
            is_being_measured: false,
            wanted_at: now,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.is_being_measured && self.tried_at.is_none_or(|tried| now.duration_since(tried) >= self.fresh_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    fn layer(key: &str, is_writable: bool) -> Wanted {
        Wanted { id: LayerId { snapshotter: "overlayfs".to_owned(), key: key.to_owned() }, is_writable }
    }

    fn bytes(bytes: u64) -> Usage {
        Usage { bytes, inodes: 1 }
    }

    fn due(sizes: &mut Sizes, all: &[Wanted]) -> Vec<String> {
        sizes.due(all.to_vec()).0.into_iter().map(|wanted| wanted.id.key).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_change_is_measured_ever_less_often() {
        let (mut sizes, layer) = (Sizes::default(), layer("root", true));
        let mut measured = Vec::new();
        for second in 0..300 {
            if !due(&mut sizes, std::slice::from_ref(&layer)).is_empty() {
                measured.push(second);
                sizes.set(&layer, Some((1, bytes(5))), QUICK);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(measured, [0, 10, 30, 70, 130, 190, 250]);
        // A layer that has changed is measured again soon.
        tokio::time::sleep(FRESH_LIMIT).await;
        sizes.set(&layer, Some((1, bytes(6))), QUICK);
        tokio::time::sleep(FRESH).await;
        assert_eq!(due(&mut sizes, &[layer]), ["root"]);
    }

    #[tokio::test(start_paused = true)]
    async fn measuring_takes_a_twentieth_of_the_time_at_most() {
        let (mut sizes, layer) = (Sizes::default(), layer("large", true));
        let took = Duration::from_secs(8);
        sizes.set(&layer, None, took);
        tokio::time::sleep(took * 20 - QUICK).await;
        assert!(due(&mut sizes, std::slice::from_ref(&layer)).is_empty());
        tokio::time::sleep(QUICK).await;
        assert_eq!(due(&mut sizes, &[layer]), ["large"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_committed_layer_is_measured_once_and_what_never_was_comes_first() {
        let mut sizes = Sizes::default();
        let (committed, old, new) = (layer("committed", false), layer("old", true), layer("new", true));
        sizes.set(&committed, Some((1, bytes(100))), QUICK);
        sizes.set(&old, Some((1, bytes(10))), QUICK);
        tokio::time::sleep(FRESH_LIMIT * 10 - QUICK).await;
        assert_eq!(due(&mut sizes, &[old.clone(), committed.clone(), new]), ["new", "old"]);
        assert_eq!(sizes.sum("overlayfs"), Usage { bytes: 110, inodes: 2 });
        assert_eq!(sizes.sum("another"), Usage::default());
        sizes.keep_only("overlayfs", &HashSet::from(["old"]));
        assert_eq!(sizes.sum("overlayfs"), bytes(10), "what is gone takes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_measured_is_not_measured_twice() {
        let (mut sizes, layer) = (Sizes::default(), layer("root", true));
        let all = [layer.clone()];
        assert_eq!(sizes.due(all.to_vec()), (all.to_vec(), vec![layer.id.clone()]));
        assert_eq!(sizes.due(all.to_vec()), (vec![], vec![layer.id.clone()]), "who asks now waits for the same");
        sizes.set(&layer, None, QUICK);
        assert!(sizes.was_tried(&layer.id), "who waits is told that nothing is known");
        assert_eq!(sizes.due(all.to_vec()), (vec![], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn t6_slow_layers_share_one_part_of_the_places() {
        let (mut sizes, slow, quick) = (Sizes::default(), layer("many files", true), layer("few files", true));
        assert_eq!(sizes.share(&slow.id), "many files", "that is not known yet");
        sizes.set(&slow, None, SLOW);
        sizes.set(&quick, Some((1, bytes(5))), QUICK);
        assert_eq!((sizes.share(&slow.id), sizes.share(&quick.id)), ("slow", "few files"));
        sizes.set(&slow, Some((1, bytes(5))), QUICK);
        assert_eq!(sizes.share(&slow.id), "many files");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_once_stays_known() {
        let (mut sizes, layer) = (Sizes::default(), layer("root", true));
        sizes.set(&layer, Some((7, bytes(5))), QUICK);
        sizes.set(&layer, None, QUICK);
        assert_eq!(sizes.get(&layer.id), Some((7, bytes(5))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_size_that_is_not_requested_any_more_is_dropped() {
        let (mut sizes, kept, left) = (Sizes::default(), layer("kept", false), layer("left", true));
        for one in [&kept, &left] {
            sizes.set(one, Some((1, bytes(5))), QUICK);
        }
        tokio::time::sleep(FORGOTTEN / 2).await;
        assert!(due(&mut sizes, std::slice::from_ref(&kept)).is_empty());
        tokio::time::sleep(FORGOTTEN / 2).await;
        sizes.forget();
        assert!(sizes.get(&kept.id).is_some() && sizes.get(&left.id).is_none());
    }
}
