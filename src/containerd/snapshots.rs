//! The Snapshots service.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots as pb;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;

use super::connect::Channel;
use super::error::removal;
use super::{Containerd, Mount, Result, nanoseconds};
use crate::userns::{Mapping, Range};

/// A snapshot as the snapshotter's metadata describes it.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Key (active, view) or chain id (committed).
    pub name: String,
    /// The parent snapshot; empty for the bottom layer.
    pub parent: String,
    pub kind: SnapshotKind,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Writable: the root of a container, or a layer that is being unpacked.
    Active,
    /// A read-only view of a committed snapshot.
    View,
    /// A layer.
    Committed,
}

/// How much disk space a snapshot uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Containerd {
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.unary.channel())
    }

    /// Creates a writable snapshot above `parent` and returns its mounts. `ids` maps its owners into a user namespace,
    /// which the snapshotter must support (capability `remap-ids`).
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the parent is not unpacked, [`super::Kind::AlreadyExists`] when the key exists.
    pub async fn prepare_snapshot(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
        ids: Option<Mapping>,
    ) -> Result<Vec<Mount>> {
        let labels = ids.map(id_labels).unwrap_or_default();
        let made = self.prepare(snapshotter, key, parent, labels).await;
        made.map_err(|status| self.error("prepare snapshot", key, &status))
    }

    /// Creates the writable snapshot that a layer is unpacked into. A snapshotter that already has the layer named in
    /// the labels may return [`super::Kind::AlreadyExists`] and commit it itself.
    ///
    /// # Errors
    /// The same as for [`Containerd::prepare_snapshot`].
    pub async fn prepare_layer(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Result<Vec<Mount>> {
        let made = self.prepare(snapshotter, key, parent, labels).await;
        made.map_err(|status| self.error("prepare layer", key, &status))
    }

    async fn prepare(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> std::result::Result<Vec<Mount>, tonic::Status> {
        let (snapshotter, key, parent) = (snapshotter.to_owned(), key.to_owned(), parent.to_owned());
        let request = pb::PrepareSnapshotRequest { snapshotter, key, parent, labels };
        let reply = self.snapshots().prepare(self.request(request)).await?;
        Ok(mounts(reply.into_inner().mounts))
    }

    /// Creates a read-only view of `parent` and returns its mounts. containerd's garbage collector removes the view
    /// when neither a lease nor a record refers to it, so a view whose owner died does not leak.
    ///
    /// # Errors
    /// The same as for [`Containerd::prepare_snapshot`].
    pub async fn view_snapshot(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Result<Vec<Mount>> {
        let request = pb::ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let reply = self.snapshots().view(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("view snapshot", parent, &status))?;
        Ok(mounts(reply.into_inner().mounts))
    }

    /// The mounts of an existing snapshot.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown key.
    pub async fn snapshot_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let request = pb::MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let reply = self.snapshots().mounts(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("mounts of snapshot", key, &status))?;
        Ok(mounts(reply.into_inner().mounts))
    }

    /// Commits an active snapshot under the name of a layer's chain id.
    ///
    /// # Errors
    /// [`super::Kind::AlreadyExists`] when another client committed it first.
    pub async fn commit_snapshot(
        &self,
        snapshotter: &str,
        name: &str,
        key: &str,
        labels: HashMap<String, String>,
    ) -> Result<()> {
        let request = pb::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
        };
        let reply = self.snapshots().commit(self.request(request)).await;
        reply.map(drop).map_err(|status| self.error("commit snapshot", name, &status))
    }

    /// Removes a snapshot. Succeeds if it does not exist.
    ///
    /// # Errors
    /// [`super::Kind::FailedPrecondition`] while it is the parent of another snapshot.
    pub async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        removal(|| async {
            let request = pb::RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
            let reply = self.snapshots().remove(self.request(request)).await;
            reply.map(drop).map_err(|status| self.error("remove snapshot", key, &status))
        })
        .await
    }

    /// Reads the snapshotter's metadata of a snapshot.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown key.
    pub async fn stat_snapshot(&self, snapshotter: &str, key: &str) -> Result<SnapshotInfo> {
        let request = pb::StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let reply = self.snapshots().stat(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("stat snapshot", key, &status))?.into_inner();
        Ok(info(reply.info.unwrap_or_default()))
    }

    /// Lists all snapshots of a snapshotter in this namespace.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown snapshotter.
    pub async fn list_snapshots(&self, snapshotter: &str) -> Result<Vec<SnapshotInfo>> {
        let request = pb::ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), filters: Vec::new() };
        let error = |status| self.error("list snapshots of", snapshotter, &status);
        let mut stream = self.snapshots().list(self.request(request)).await.map_err(error)?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await.map_err(error)? {
            all.extend(message.info.into_iter().map(info));
        }
        Ok(all)
    }

    /// Disk usage of one snapshot, without its parents. For an active snapshot the snapshotter walks the files; for a
    /// committed one it returns what it stored at the commit.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] for an unknown key.
    pub async fn snapshot_usage(&self, snapshotter: &str, key: &str) -> Result<Usage> {
        let request = pb::UsageRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let reply = self.snapshots().usage(self.request(request)).await;
        let usage = reply.map_err(|status| self.error("usage of snapshot", key, &status))?.into_inner();
        Ok(Usage { bytes: u64::try_from(usage.size).unwrap_or(0), inodes: u64::try_from(usage.inodes).unwrap_or(0) })
    }
}

/// Labels that map the owners of a snapshot into a user namespace, for a snapshotter that supports this. Only we set
/// such labels: nothing of an image or a pod becomes a label.
#[must_use]
pub fn id_labels(ids: Mapping) -> HashMap<String, String> {
    let label = |name: &str, range: Range| {
        (format!("containerd.io/snapshot/{name}"), format!("0:{}:{}", range.host, range.length))
    };
    HashMap::from([label("uidmapping", ids.uids), label("gidmapping", ids.gids)])
}

fn mounts(mounts: Vec<containerd_client::types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(Mount::from).collect()
}

fn info(info: pb::Info) -> SnapshotInfo {
    let kind = match pb::Kind::try_from(info.kind) {
        Ok(pb::Kind::Active) => SnapshotKind::Active,
        Ok(pb::Kind::View) => SnapshotKind::View,
        Ok(pb::Kind::Committed | pb::Kind::Unknown) | Err(_) => SnapshotKind::Committed,
    };
    SnapshotInfo { name: info.name, parent: info.parent, kind, created_at: nanoseconds(info.created_at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_labelled_as_containerd_reads_them() {
        let labels = id_labels(Mapping { uids: Range { host: 70, length: 9 }, gids: Range { host: 80, length: 9 } });
        assert_eq!(labels["containerd.io/snapshot/uidmapping"], "0:70:9");
        assert_eq!(labels["containerd.io/snapshot/gidmapping"], "0:80:9");
    }
}
