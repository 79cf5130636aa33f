//! Unpacks images that Transfer did not unpack: Transfer supports only the snapshotters of its own configuration, and
//! imported images do not go through it at all.

use std::collections::HashMap;
use std::time::Duration;

use super::manifest::Layer;
use super::root_fs::in_future;
use super::{Error, Image, Images, leases};
use crate::containerd::{Containerd, Kind};
use crate::telemetry::{Stage, Verb, during};

/// If the daemon dies while it unpacks, containerd collects the result after this; a layer takes minutes at most.
const LEASE: Duration = Duration::from_secs(24 * 3600);

impl Images {
    /// Creates the snapshots of all layers that `snapshotter` does not have.
    ///
    /// # Errors
    /// [`Error::LayerMissing`] when the layer's archive is not on this node either.
    pub async fn ensure_unpacked(&self, image: &Image, snapshotter: &str) -> Result<(), Error> {
        if image.chain_id.is_empty() || self.is_unpacked(&image.chain_id, snapshotter).await? {
            return Ok(());
        }
        let key = (image.chain_id.clone(), snapshotter.to_owned());
        let (images, image, snapshotter) = (self.clone(), image.clone(), snapshotter.to_owned());
        let work = || {
            self.inner.tasks.run_named(Verb::UnpackImage, image.id.clone(), async move {
                during(Stage::Unpack, images.unpack(&image, &snapshotter)).await
            })
        };
        // It runs to its end even if all callers leave: the next container uses the result.
        self.inner.unpacks.run(key, work).await
    }

    async fn is_unpacked(&self, chain_id: &str, snapshotter: &str) -> Result<bool, Error> {
        match self.inner.containerd.stat_snapshot(snapshotter, chain_id).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn unpack(&self, image: &Image, snapshotter: &str) -> Result<(), Error> {
        let containerd = &self.inner.containerd;
        let lease = leases::name("unpack");
        let leased = containerd.leased(&lease, &in_future(LEASE)).await?;
        let result = self.unpack_layers(&leased, image, snapshotter).await;
        if let Err(error) = containerd.delete_lease(&lease, false).await {
            tracing::warn!(%error, "cannot delete a lease; it stays until it expires");
        }
        result
    }

    async fn unpack_layers(&self, leased: &Containerd, image: &Image, snapshotter: &str) -> Result<(), Error> {
        let mut parent = "";
        for layer in &image.layers {
            // Done even for a layer that is unpacked: preparing it again puts it under the lease. Otherwise the garbage
            // collector might remove it before the next layer is created above it, since no image needs it yet.
            unpack_layer(leased, layer, parent, snapshotter).await?;
            parent = &layer.chain_id;
        }
        // From here on, containerd's garbage collector finds the snapshots through the config.
        let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        leased.label_blob(&image.config_blob.digest, &label, &image.chain_id).await?;
        Ok(())
    }
}

async fn unpack_layer(leased: &Containerd, layer: &Layer, parent: &str, snapshotter: &str) -> Result<(), Error> {
    let key = format!("extract-{} {}", crate::ids::ExecId::random(), layer.chain_id);
    // Contains only digests: no annotation of the layer may reach the snapshotter (uid mappings).
    let labels = HashMap::from([("containerd.io/snapshot.ref".to_owned(), layer.chain_id.clone())]);
    let mounts = match leased.prepare_layer(snapshotter, &key, parent, labels.clone()).await {
        Ok(mounts) => mounts,
        // The layer is already unpacked: by us, by another client, or by a remote snapshotter that had it and committed
        // it.
        Err(error) if error.kind() == Kind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let result = apply(leased, layer, &key, mounts, snapshotter).await;
    if result.is_err()
        && let Err(error) = leased.remove_snapshot(snapshotter, &key).await
    {
        tracing::warn!(%error, "cannot remove a snapshot; it stays until its lease expires");
    }
    result
}

async fn apply(
    leased: &Containerd,
    layer: &Layer,
    key: &str,
    mounts: Vec<crate::containerd::Mount>,
    snapshotter: &str,
) -> Result<(), Error> {
    let found = match leased.apply_diff(layer.blob.clone(), mounts).await {
        Ok(found) => found,
        // The error does not say which object is missing, so this asks for the archive.
        Err(error) if !leased.has_blob(&layer.blob.digest).await.unwrap_or(true) => {
            tracing::debug!(%error, "a layer cannot be unpacked");
            return Err(Error::LayerMissing { layer: layer.blob.digest.clone(), snapshotter: snapshotter.to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    if found != layer.diff_id {
        let (layer, expected) = (layer.blob.digest.clone(), layer.diff_id.clone());
        return Err(Error::WrongLayer { layer, found, expected });
    }
    let labels = HashMap::from([("containerd.io/snapshot.ref".to_owned(), layer.chain_id.clone())]);
    match leased.commit_snapshot(snapshotter, &layer.chain_id, key, labels).await {
        Ok(()) => Ok(()),
        // Another client committed the layer first; its snapshot is the same.
        Err(error) if error.kind() == Kind::AlreadyExists => {
            leased.remove_snapshot(snapshotter, key).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
