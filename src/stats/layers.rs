//! Disk usage of layers: of containers' writable layers for stats, and of all layers of a snapshotter for ImageFsInfo.
//!
//! To measure a writable layer, a snapshotter walks its files, so no call waits long for it. Layers are measured in the
//! background, when a call needs them and the last measurement is out of date. A layer that cannot change is measured
//! once. A layer whose size stays the same is measured less and less often, and so is one that takes long to measure.
//! Stats and ImageFsInfo share the measurements.

mod sizes;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use self::sizes::Sizes;
use crate::containerd::{self, Containerd, Usage};
use crate::mutex::{Mutex, MutexGuard};
use crate::slots::{Bounds, Slots};
use crate::tasks::Tasks;

/// The timeout for measuring one layer.
const LONGEST: Duration = Duration::from_secs(30);
const MEASURED_AT_ONCE: usize = 4;

/// Sizes of layers. Clones share them.
#[derive(Clone)]
pub struct Layers {
    inner: Arc<Inner>,
}

struct Inner {
    containerd: Containerd,
    tasks: Tasks,
    // Held for map lookups only.
    state: Mutex<State>,
    slots: Slots,
    /// Notified after each measurement of a layer.
    measured: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    sizes: Sizes,
    /// Where each snapshotter keeps its data.
    roots: HashMap<String, PathBuf>,
}

/// Identifies a snapshot of a snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerId {
    pub snapshotter: String,
    /// The snapshot's key. For a writable layer this is the container's id.
    pub key: String,
}

/// A layer whose size a caller needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub id: LayerId,
    /// Whether the layer may be written to. A committed snapshot never changes.
    pub is_writable: bool,
}

/// A layer's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// When it was measured, in nanoseconds since the epoch.
    pub at: i64,
    pub bytes: u64,
    pub inodes: u64,
    /// Where its snapshotter keeps its data; `None` when that is unknown.
    pub root: Option<PathBuf>,
}

impl Layers {
    /// Measures nothing until the first call of [`Layers::refresh`].
    #[must_use]
    pub fn new(containerd: Containerd, tasks: Tasks) -> Self {
        let inner = Inner {
            containerd,
            tasks,
            state: Mutex::default(),
            slots: Slots::new(Bounds::shared(MEASURED_AT_ONCE)),
            measured: watch::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts measuring the layers that are out of date, and waits at most `patience` for those that were never
    /// measured.
    pub async fn refresh(&self, wanted: Vec<Wanted>, patience: Duration) {
        let mut measured = self.inner.measured.subscribe();
        let (due, mut new) = self.inner.lock().sizes.due(wanted);
        if !due.is_empty() {
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.background(async move { inner.round(due).await });
        }
        let are_known = measured.wait_for(|()| {
            let state = self.inner.lock();
            while new.pop_if(|id| state.sizes.was_tried(id)).is_some() {}
            new.is_empty()
        });
        let _ = tokio::time::timeout(patience, are_known).await;
    }

    /// The last known size of a layer.
    #[must_use]
    pub fn get(&self, id: &LayerId) -> Option<Layer> {
        let state = self.inner.lock();
        let (at, usage) = state.sizes.get(id)?;
        Some(Layer { at, bytes: usage.bytes, inodes: usage.inodes, root: state.roots.get(&id.snapshotter).cloned() })
    }

    /// The sum of the last known sizes of all layers of a snapshotter.
    #[must_use]
    pub fn sum(&self, snapshotter: &str) -> Usage {
        self.inner.lock().sizes.sum(snapshotter)
    }

    /// Forgets the layers of a snapshotter whose keys are not in `keys`, because they no longer exist.
    pub fn keep_only(&self, snapshotter: &str, keys: &HashSet<&str>) {
        self.inner.lock().sizes.keep_only(snapshotter, keys);
    }

    /// Where a snapshotter keeps its data, if that is known already.
    #[must_use]
    pub fn root(&self, snapshotter: &str) -> Option<PathBuf> {
        self.inner.lock().roots.get(snapshotter).cloned()
    }

    /// Like [`Layers::root`], but queries containerd if the directory is not known yet.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn find_root(&self, snapshotter: &str) -> Result<PathBuf, containerd::Error> {
        self.inner.find_root(snapshotter).await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn find_root(&self, snapshotter: &str) -> Result<PathBuf, containerd::Error> {
        if let Some(root) = self.lock().roots.get(snapshotter) {
            return Ok(root.clone());
        }
        let plugins = self.containerd.plugins().await?;
        let plugin = plugins.iter().find(|p| p.kind == "io.containerd.snapshotter.v1" && p.id == snapshotter);
        // A snapshotter that does not export its root directory keeps its data in containerd's default location.
        let standard = || format!("/var/lib/containerd/io.containerd.snapshotter.v1.{snapshotter}");
        let root = plugin.and_then(|plugin| plugin.exports.get("root").cloned()).unwrap_or_else(standard);
        let root = PathBuf::from(root);
        self.lock().roots.insert(snapshotter.to_owned(), root.clone());
        Ok(root)
    }

    async fn round(&self, due: Vec<Wanted>) {
        let snapshotters: HashSet<&str> = due.iter().map(|wanted| wanted.id.snapshotter.as_str()).collect();
        for snapshotter in snapshotters {
            // Without an answer, sizes are reported without a root directory until the next round.
            let _ = tokio::time::timeout(LONGEST, self.find_root(snapshotter)).await;
        }
        // All measurements queue for slots at the same time, so that a slow layer does not delay the layers after it.
        stream::iter(due).for_each_concurrent(None, |wanted| self.measure(wanted)).await;
        self.lock().sizes.forget();
    }

    async fn measure(&self, wanted: Wanted) {
        let share = self.lock().sizes.share(&wanted.id);
        let Ok(_slot) = self.slots.take(share, "").await else { return };
        let began = Instant::now();
        let asking = self.containerd.snapshot_usage(&wanted.id.snapshotter, &wanted.id.key);
        // Dropping the call is harmless: it changes nothing, and containerd stops its walk.
        let answer = tokio::time::timeout(LONGEST, asking).await;
        let is_gone = matches!(&answer, Ok(Err(error)) if error.is_not_found());
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let usage = answer.ok().and_then(Result::ok).map(|usage| (now, usage));
        let mut state = self.lock();
        if is_gone {
            state.sizes.remove(&wanted.id);
        } else {
            state.sizes.set(&wanted, usage, began.elapsed());
        }
        drop(state);
        self.measured.send_replace(());
    }
}
