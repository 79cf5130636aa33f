//! ImageFsInfo.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;

use super::usage::Usages;
use super::{Error, Images, Settings};
use crate::api::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};

/// What a call waits for what is being measured; the measuring goes on, and the next call has it.
const BUDGET: Duration = Duration::from_secs(2);
const MEASURED_AT_ONCE: usize = 4;

/// One snapshotter and what is known of its disk.
pub(super) struct Disk {
    snapshotter: String,
    usages: Usages,
    /// Asked of containerd once.
    mountpoint: Mutex<Option<String>>,
}

impl Disk {
    /// Those of all snapshotters that are used, the default one's first; nothing is known of them.
    pub(super) fn all(settings: &Settings) -> Vec<Self> {
        let mut names = vec![&settings.snapshotter];
        for name in settings.handler_snapshotters.values() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let new =
            |name: &String| Self { snapshotter: name.clone(), usages: Usages::default(), mountpoint: Mutex::default() };
        names.into_iter().map(new).collect()
    }
}

impl Images {
    /// The file systems of the snapshotters, the default one first: what layers and containers' roots take. Both are in
    /// one place each, so that the lists are the same; kubelet takes that for a node without a disk of its own for images.
    ///
    /// # Errors
    /// [`Error::Containerd`] when there is no list and there has never been one.
    pub async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        let (seat, pilot) = self.inner.measuring.join(());
        if let Some(pilot) = pilot {
            let images = self.clone();
            self.inner.tasks.background(async move {
                let result = images.measure().await;
                pilot.land(result);
            });
        }
        let measured = tokio::time::timeout(BUDGET, seat.arrive()).await;
        let known: Vec<FilesystemUsage> = self.inner.disks.iter().filter_map(Disk::usage).collect();
        match measured {
            // While containerd is away: what it was.
            Ok(Some(Err(error))) if known.is_empty() => Err(error),
            _ if known.is_empty() => Err(Error::Away(format!("it has not listed its snapshots within {BUDGET:?}"))),
            _ => Ok(ImageFsInfoResponse { image_filesystems: known.clone(), container_filesystems: known }),
        }
    }

    /// Measures what is due of all snapshotters.
    async fn measure(&self) -> Result<(), Error> {
        for disk in &self.inner.disks {
            self.find_mountpoint(disk).await?;
            let snapshots = self.inner.containerd.list_snapshots(&disk.snapshotter).await?;
            let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
            let due = disk.usages.due(&snapshots, now);
            let measure = |snapshot: crate::containerd::SnapshotInfo| async move {
                let usage = self.inner.containerd.snapshot_usage(&disk.snapshotter, &snapshot.name).await;
                // One that went away in the meantime takes nothing.
                if let Ok(usage) = usage {
                    disk.usages.set(&snapshot, usage);
                }
            };
            stream::iter(due).for_each_concurrent(MEASURED_AT_ONCE, measure).await;
        }
        Ok(())
    }

    /// Where a snapshotter keeps its data; kubelet's cAdvisor calls statfs on it.
    async fn find_mountpoint(&self, disk: &Disk) -> Result<(), Error> {
        if disk.mountpoint.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let settings = &self.inner.settings;
        let plugins = self.inner.containerd.plugins().await?;
        let plugin = plugins.iter().find(|p| p.kind == "io.containerd.snapshotter.v1" && p.id == disk.snapshotter);
        let told = plugin.and_then(|plugin| plugin.exports.get("root")).map(PathBuf::from);
        let standard =
            || PathBuf::from("/var/lib/containerd/io.containerd.snapshotter.v1.".to_owned() + &disk.snapshotter);
        let configured = settings.snapshotter_root.clone().filter(|_| disk.snapshotter == settings.snapshotter);
        let root = told.or(configured).unwrap_or_else(standard);
        *disk.mountpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(root.display().to_string());
        Ok(())
    }
}

impl Disk {
    /// As it was last measured; none when it never was.
    fn usage(&self) -> Option<FilesystemUsage> {
        let mountpoint = self.mountpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (sum, timestamp) = self.usages.sum()?;
        Some(FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: sum.bytes }),
            inodes_used: Some(UInt64Value { value: sum.inodes }),
        })
    }
}
