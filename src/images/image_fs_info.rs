//! ImageFsInfo.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Error, Images};
use crate::api::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use crate::containerd::{SnapshotInfo, SnapshotKind, Usage};

/// What measuring may take: the snapshotter walks the files of every writable snapshot.
const BUDGET: Duration = Duration::from_secs(2);
/// kubelet asks every ten seconds; it gets the same answer in between.
const FRESH: Duration = Duration::from_secs(10);
const MEASURED_AT_ONCE: usize = 4;

/// What snapshots took when they were last measured, and the answer of the last time.
#[derive(Default)]
pub(super) struct Usages {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_key: HashMap<String, Measured>,
    mountpoint: Option<String>,
    last: Option<(Instant, FilesystemUsage)>,
}

#[derive(Clone, Copy)]
struct Measured {
    usage: Usage,
    at: Instant,
}

impl Images {
    /// The file system of the default snapshotter: what its layers and its containers' roots take.
    ///
    /// # Errors
    /// [`Error::Containerd`] when there is no list and there has never been one.
    pub async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        let usage = match self.measure().await {
            Ok(usage) => usage,
            // While containerd is away: what it was.
            Err(error) => self.inner.usages.lock().last.clone().map(|(_, usage)| usage).ok_or(error)?,
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }

    async fn measure(&self) -> Result<FilesystemUsage, Error> {
        let snapshotter = &self.inner.settings.snapshotter;
        let snapshots = self.inner.containerd.list_snapshots(snapshotter).await?;
        let stale = self.inner.usages.stale(&snapshots);
        let measuring = stream::iter(stale).for_each_concurrent(MEASURED_AT_ONCE, |key| async move {
            // One that went away in the meantime takes nothing.
            if let Ok(usage) = self.inner.containerd.snapshot_usage(snapshotter, &key).await {
                self.inner.usages.lock().by_key.insert(key, Measured { usage, at: Instant::now() });
            }
        });
        // Past the budget the rest is as it was last time; nothing is hurt by dropping a question.
        let _ = tokio::time::timeout(BUDGET, measuring).await;
        let mountpoint = self.mountpoint().await?;
        let sum = self.inner.usages.sum(&snapshots);
        let usage = FilesystemUsage {
            timestamp: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: sum.bytes }),
            inodes_used: Some(UInt64Value { value: sum.inodes }),
        };
        self.inner.usages.lock().last = Some((Instant::now(), usage.clone()));
        Ok(usage)
    }

    /// Where the snapshotter keeps its data; kubelet's cAdvisor calls statfs on it.
    async fn mountpoint(&self) -> Result<String, Error> {
        if let Some(known) = self.inner.usages.lock().mountpoint.clone() {
            return Ok(known);
        }
        let settings = &self.inner.settings;
        let plugins = self.inner.containerd.plugins().await?;
        let plugin = plugins.iter().find(|p| p.kind == "io.containerd.snapshotter.v1" && p.id == settings.snapshotter);
        let told = plugin.and_then(|plugin| plugin.exports.get("root")).map(PathBuf::from);
        let standard =
            || PathBuf::from("/var/lib/containerd/io.containerd.snapshotter.v1.".to_owned() + &settings.snapshotter);
        let root = told.or_else(|| settings.snapshotter_root.clone()).unwrap_or_else(standard);
        let mountpoint = root.display().to_string();
        self.inner.usages.lock().mountpoint = Some(mountpoint.clone());
        Ok(mountpoint)
    }
}

impl Usages {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is gone and says what is to be measured: a committed snapshot once, a
    /// writable one again when it is not fresh.
    fn stale(&self, snapshots: &[SnapshotInfo]) -> Vec<String> {
        let mut state = self.lock();
        let there: std::collections::HashSet<&str> = snapshots.iter().map(|s| s.name.as_str()).collect();
        state.by_key.retain(|key, _| there.contains(key.as_str()));
        let stale = snapshots.iter().filter(|snapshot| match state.by_key.get(&snapshot.name) {
            None => true,
            Some(_) if snapshot.kind == SnapshotKind::Committed => false,
            Some(measured) => measured.at.elapsed() >= FRESH,
        });
        stale.map(|snapshot| snapshot.name.clone()).collect()
    }

    fn sum(&self, snapshots: &[SnapshotInfo]) -> Usage {
        let state = self.lock();
        let measured = snapshots.iter().filter_map(|snapshot| state.by_key.get(&snapshot.name));
        measured.fold(Usage::default(), |sum, measured| Usage {
            bytes: sum.bytes.saturating_add(measured.usage.bytes),
            inodes: sum.inodes.saturating_add(measured.usage.inodes),
        })
    }
}
