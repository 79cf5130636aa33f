//! Images that a container mounts as volumes. The directory and the snapshot key of each are derived from the
//! container's id and the mount's index in its config. The container's record is written before a view is created, and
//! refers to it by a label, which keeps the view from containerd's garbage collection. So there is no lease, and
//! nothing to search for after a crash.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::v1::{ContainerConfig, Mount};
use crate::container::mounts::{self, HostMount};
use crate::container::{Container, Record};
use crate::ids::ContainerId;
use crate::images::{Volume, remove_mount_point};
use crate::joined::run_blocking;
use crate::runtime::sandbox::selinux::mount_label;
use crate::runtime::{Error, Node, Result};
use crate::undo::Undo;
use crate::userns::Mapping;

/// Label prefix, to be followed by the snapshotter's name: containerd's GC keeps the snapshot that the value names.
const KEEP: &str = "containerd.io/gc.ref.snapshot.";

/// How many images a container may mount: each is a snapshot and a mount on the node.
const MOST_IMAGES: usize = 1000;

/// Labels of a container's record that keep the views of its images from garbage collection.
pub(crate) fn labels(record: &Record, snapshotter: &str) -> HashMap<String, String> {
    let places = record.resolved.image_volumes.keys();
    places.map(|index| (format!("{KEEP}{snapshotter}/image-{index}"), key(&record.id, *index))).collect()
}

/// The mounts as ContainerStatus shows them: an image by the id that its reference had when the container was created.
pub(crate) fn reported(container: &Container) -> Vec<Mount> {
    let mut mounts = container.record.config.mounts.clone();
    for (index, id) in &container.record.resolved.image_volumes {
        if let Some(image) = mounts.get_mut(*index).and_then(|mount| mount.image.as_mut()) {
            image.image.clone_from(id);
            // critest expects the image's id here, as PullImage returned it.
            image.image_ref.clone_from(id);
        }
    }
    mounts
}

/// Whether the container may have image volumes. This is unknown, and so assumed, if its record is damaged.
fn may_have_any(container: &Container) -> bool {
    let resolved = &container.record.resolved;
    !resolved.image_volumes.is_empty() || resolved.image_id.is_empty()
}

fn key(id: &ContainerId, index: usize) -> String {
    format!("{id}-image-{index}")
}

impl Node {
    fn image_volumes_root(&self) -> PathBuf {
        self.config.state.join("image-volumes")
    }

    fn image_volume(&self, id: &ContainerId, index: usize) -> PathBuf {
        self.image_volumes_root().join(id.as_str()).join(index.to_string())
    }

    /// Ids of the images that a request mounts, by the index of the mount. The images must have been pulled.
    pub(crate) fn resolve_image_volumes(
        &self,
        config: &ContainerConfig,
        pod: Option<Mapping>,
    ) -> Result<BTreeMap<usize, String>> {
        mounts::check_owners(&config.mounts, pod)?;
        let count = config.mounts.iter().filter(|mount| mount.image.is_some()).count();
        if count > MOST_IMAGES {
            let problem = format!("{count} of them are images, more than {MOST_IMAGES}");
            return Err(Error::Invalid { field: "config.mounts", problem });
        }
        let mut ids = BTreeMap::new();
        for mount in mounts::images(&config.mounts)? {
            if let Err(problem) = self.known_handler(&mount.handler) {
                return Err(mounts::Error::Image { index: mount.index, name: "image.runtime_handler", problem }.into());
            }
            let image = self.images.resolve(&mount.reference);
            let image = image.map_err(|source| Error::ImageVolume { index: mount.index, field: "image", source })?;
            ids.insert(mount.index, image.id.clone());
        }
        Ok(ids)
    }

    /// Sets the paths at which the images among a request's mounts will be mounted.
    pub(crate) fn place_image_volumes(&self, id: &ContainerId, mounts: &mut [HostMount]) {
        for (index, one) in mounts.iter_mut().enumerate().filter(|(_, one)| one.mount.image.is_some()) {
            one.source = self.image_volume(id, index);
        }
    }

    /// Mounts the images. The container's record must exist.
    pub(crate) async fn mount_image_volumes(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mapping: Option<Mapping>,
        undo: &mut Undo,
    ) -> Result<()> {
        let wanted = mounts::images(&container.record.config.mounts)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let (node, draft) = (Arc::clone(self), Arc::clone(container));
        let removed = async move { node.remove_image_volumes(&draft).await.map_err(|error| error.chain()) };
        undo.push("remove image volumes", removed);
        let label = mount_label(&container.spec().json);
        for mount in wanted {
            let failed = |field: &'static str| move |source| Error::ImageVolume { index: mount.index, field, source };
            let id = container.record.resolved.image_volumes.get(&mount.index).unwrap_or(&mount.reference);
            let image = self.images.resolve(id).map_err(failed("image"))?;
            let volume = Volume {
                snapshotter: container.root.snapshotter.clone(),
                key: key(container.id(), mount.index),
                sub_path: mount.sub_path,
                target: self.image_volume(container.id(), mount.index),
                mapping,
                label: label.clone(),
            };
            self.images.mount_volume(&image, volume).await.map_err(|error| match error {
                error @ crate::images::Error::SubPath { .. } => failed("image_sub_path")(error),
                error => failed("image")(error),
            })?;
        }
        Ok(())
    }

    /// Unmounts a container's images on the host. None of its processes may be left.
    pub(crate) async fn unmount_image_volumes(&self, container: &Container) -> Result<()> {
        if !may_have_any(container) {
            return Ok(());
        }
        let directory = self.image_volumes_root().join(container.id().as_str());
        let failed = directory.clone();
        let done = run_blocking(move || remove_mount_points(&directory)).await;
        done.map_err(|source| Error::system("unmount images in", &failed, source))
    }

    /// Unmounts the images, and removes their views.
    pub(crate) async fn remove_image_volumes(&self, container: &Container) -> Result<()> {
        self.unmount_image_volumes(container).await?;
        for index in container.record.resolved.image_volumes.keys() {
            let key = key(container.id(), *index);
            self.containerd.remove_snapshot(&container.root.snapshotter, &key).await?;
        }
        Ok(())
    }

    /// Unmounts the images of containers that another client has removed while no daemon was running.
    pub(crate) fn sweep_image_volumes(&self) {
        for entry in std::fs::read_dir(self.image_volumes_root()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| ContainerId::parse(name).ok());
            if id.is_some_and(|id| self.store.containers.get(id.as_str()).is_none())
                && let Err(error) = remove_mount_points(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "the image volumes of a removed container stay mounted");
            }
        }
    }
}

fn remove_mount_points(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        remove_mount_point(&entry?.path())?;
    }
    std::fs::remove_dir(directory)
}
