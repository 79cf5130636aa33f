//! ImageFsInfo: how much disk space the snapshotters use.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::{Error, Images, Settings};
use crate::api::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use crate::containerd::SnapshotKind;
use crate::stats::{LayerId, Wanted};

/// How long a call waits for measurements. They continue after that, and the next call returns their result.
const BUDGET: Duration = Duration::from_secs(2);

/// The file system of one snapshotter.
pub(super) struct Disk {
    snapshotter: String,
    /// When its snapshots were last listed, in nanoseconds since the epoch; 0 before the first time.
    listed_at: AtomicI64,
}

impl Disk {
    /// One for each snapshotter that is used, the default one first.
    pub(super) fn all(settings: &Settings) -> Vec<Self> {
        let mut names = vec![&settings.snapshotter];
        for name in settings.handler_snapshotters.values() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.into_iter().map(|name| Self { snapshotter: name.clone(), listed_at: AtomicI64::new(0) }).collect()
    }
}

impl Images {
    /// How much layers and containers' roots use on the file system of each snapshotter, the default one first. Both
    /// are in the same place, so the two lists are equal; kubelet takes that for a node without a separate disk for
    /// images.
    ///
    /// # Errors
    /// [`Error::Containerd`] or [`Error::ContainerdUnavailable`] when there is no list of snapshots and never was one.
    pub async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        // May be dropped while it waits: listing changes nothing, and a separate task measures the layers.
        let measured = tokio::time::timeout(BUDGET, self.measure()).await;
        let known: Vec<FilesystemUsage> = self.inner.disks.iter().filter_map(|disk| self.usage(disk)).collect();
        match measured {
            // While containerd does not respond, the last known values are returned, if there are any.
            Ok(Err(error)) if known.is_empty() => Err(error),
            _ if known.is_empty() => {
                let address = self.inner.containerd.address().display();
                Err(Error::ContainerdUnavailable(format!(
                    "containerd does not answer at {address}: it has not listed the snapshots within {BUDGET:?}"
                )))
            }
            _ => Ok(ImageFsInfoResponse { image_filesystems: known.clone(), container_filesystems: known }),
        }
    }

    /// Lists the snapshots of all snapshotters, and measures those whose size is due.
    async fn measure(&self) -> Result<(), Error> {
        let layers = &self.inner.layers;
        let mut wanted = Vec::new();
        for disk in &self.inner.disks {
            // The snapshotter's directory; kubelet's cAdvisor calls statfs on it.
            layers.find_root(&disk.snapshotter).await?;
            let snapshots = self.inner.containerd.list_snapshots(&disk.snapshotter).await?;
            layers.keep_only(&disk.snapshotter, &snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect());
            let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
            disk.listed_at.store(now, Ordering::Relaxed);
            wanted.extend(snapshots.into_iter().map(|snapshot| Wanted {
                id: LayerId { snapshotter: disk.snapshotter.clone(), key: snapshot.name },
                is_writable: snapshot.kind != SnapshotKind::Committed,
            }));
        }
        layers.refresh(wanted, BUDGET).await;
        Ok(())
    }

    /// The last measured usage; `None` before the first measurement.
    fn usage(&self, disk: &Disk) -> Option<FilesystemUsage> {
        let timestamp = Some(disk.listed_at.load(Ordering::Relaxed)).filter(|at| *at > 0)?;
        let root = self.inner.layers.root(&disk.snapshotter)?;
        let sum = self.inner.layers.sum(&disk.snapshotter);
        Some(FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: root.display().to_string() }),
            used_bytes: Some(UInt64Value { value: sum.bytes }),
            inodes_used: Some(UInt64Value { value: sum.inodes }),
        })
    }
}
