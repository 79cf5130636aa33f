//! What layers take on disk: containers' writable ones for stats, and all of a snapshotter's for ImageFsInfo.
//!
//! A snapshotter walks a writable layer's files to know, so no call waits for it for long: layers are measured in the
//! background when somebody asks and what is known is no longer fresh. One that nothing can change is measured once, one that
//! does not change ever more seldom, and one that took long to measure too. Both who ask have the same measures.

mod sizes;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use self::sizes::Sizes;
use crate::containerd::{self, Containerd, Usage};
use crate::slots::{Bounds, Slots};
use crate::tasks::Tasks;

/// A walk is given up after this.
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
    places: Slots,
    /// Changes with each layer that was measured.
    measured: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    sizes: Sizes,
    /// Where snapshotters keep their data.
    roots: HashMap<String, PathBuf>,
}

/// A snapshot of a snapshotter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerId {
    /// The snapshotter.
    pub snapshotter: String,
    /// The snapshot's key: of a writable layer the container's id.
    pub key: String,
}

/// A layer that somebody wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub id: LayerId,
    /// Whether it may be written to. What is committed never changes.
    pub is_writable: bool,
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

impl Layers {
    /// Nothing is measured before somebody asks.
    #[must_use]
    pub fn new(containerd: Containerd, tasks: Tasks) -> Self {
        let inner = Inner {
            containerd,
            tasks,
            state: Mutex::default(),
            places: Slots::new(Bounds::shared(MEASURED_AT_ONCE)),
            measured: watch::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Has those measured that are not fresh, and waits at most so long for those that never were.
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

    /// What is known of a layer.
    #[must_use]
    pub fn get(&self, id: &LayerId) -> Option<Layer> {
        let state = self.inner.lock();
        let (at, usage) = state.sizes.get(id)?;
        Some(Layer { at, bytes: usage.bytes, inodes: usage.inodes, root: state.roots.get(&id.snapshotter).cloned() })
    }

    /// What is known of all layers of a snapshotter together.
    #[must_use]
    pub fn sum(&self, snapshotter: &str) -> Usage {
        self.inner.lock().sizes.sum(snapshotter)
    }

    /// Forgets the layers of a snapshotter that are not among these keys: they are gone.
    pub fn keep_only(&self, snapshotter: &str, keys: &HashSet<&str>) {
        self.inner.lock().sizes.keep_only(snapshotter, keys);
    }

    /// Where a snapshotter keeps its data, when that is known.
    #[must_use]
    pub fn root(&self, snapshotter: &str) -> Option<PathBuf> {
        self.inner.lock().roots.get(snapshotter).cloned()
    }

    /// The same; containerd is asked once.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn find_root(&self, snapshotter: &str) -> Result<PathBuf, containerd::Error> {
        self.inner.find_root(snapshotter).await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find_root(&self, snapshotter: &str) -> Result<PathBuf, containerd::Error> {
        if let Some(root) = self.lock().roots.get(snapshotter) {
            return Ok(root.clone());
        }
        let plugins = self.containerd.plugins().await?;
        let plugin = plugins.iter().find(|p| p.kind == "io.containerd.snapshotter.v1" && p.id == snapshotter);
        // What does not tell keeps its data where containerd has it by default.
        let standard = || format!("/var/lib/containerd/io.containerd.snapshotter.v1.{snapshotter}");
        let root = plugin.and_then(|plugin| plugin.exports.get("root").cloned()).unwrap_or_else(standard);
        let root = PathBuf::from(root);
        self.lock().roots.insert(snapshotter.to_owned(), root.clone());
        Ok(root)
    }

    async fn round(&self, due: Vec<Wanted>) {
        let snapshotters: HashSet<&str> = due.iter().map(|wanted| wanted.id.snapshotter.as_str()).collect();
        for snapshotter in snapshotters {
            // Without an answer the sizes are told without a place, until the next round.
            let _ = tokio::time::timeout(LONGEST, self.find_root(snapshotter)).await;
        }
        // All wait for places at once: who is slow must not stand before others here.
        stream::iter(due).for_each_concurrent(None, |wanted| self.measure(wanted)).await;
        self.lock().sizes.forget();
    }

    async fn measure(&self, wanted: Wanted) {
        let share = self.lock().sizes.share(&wanted.id);
        let Ok(_place) = self.places.take(share, "").await else { return };
        let began = Instant::now();
        let asking = self.containerd.snapshot_usage(&wanted.id.snapshotter, &wanted.id.key);
        // Nothing is hurt by dropping a question; containerd then stops its walk.
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
