//! ImageService: one file per verb. containerd pulls, verifies and unpacks images. Its image records are the source of
//! truth; [`Images`] is an in-memory index of them, from which lists are served.
//!
//! This module must not do registry or archive work itself, must not copy an image's labels or annotations to a
//! containerd object, and must not trust what an image says about itself. Its callers are the gRPC edge (verbs),
//! CreateContainer ([`Images::resolve`] and the methods that take its result), and the reader of containerd's event
//! stream ([`Images::on_event`], [`Images::refresh`]).

mod auth;
mod cached_config;
mod config;
mod copy;
mod copy_volume;
mod document;
mod errors;
mod fetch;
mod hosts;
mod image;
mod image_fs_info;
mod image_status;
mod index;
mod leases;
mod list_images;
mod manifest;
mod media;
mod platform;
mod progress;
mod pull_image;
mod pull_slots;
mod reference;
mod remove_image;
mod root_fs;
mod unpack;
mod user_db;
mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

pub use errors::{Error, Kind, Unusable};
pub use image::{Image, User};
pub use progress::Pace;
pub use reference::normalised;
pub use volume::{Volume, remove_mount_point};

use crate::containerd::{self, Containerd, ImageRecord, Platform};
use crate::flights::Flights;
use crate::mutex::Mutex;
use crate::slots::{Bounds, Slots};
use crate::stats::Layers;
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, Verb};
use image_fs_info::Disk;
use index::{Index, IndexEntry};
use manifest::Contents;
use user_db::UserDbs;

/// Label of a record whose image also has a record named by its id; containerd's own CRI plugin and other tools know
/// this label.
const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// Label of an image that kubelet's garbage collection must spare.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// How long a new mutating call waits for a containerd that does not respond.
const CONTAINERD_WAIT: Duration = Duration::from_secs(5);

/// The operator's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directories that contain `<host>/hosts.toml`, separated by colons.
    pub registry_config_path: String,
    /// The default snapshotter.
    pub snapshotter: String,
    /// The snapshotter of each runtime handler. The default handler is listed under its name and under the empty name.
    pub handler_snapshotters: BTreeMap<String, String>,
    /// The rate below which a download is too slow.
    pub pace: Pace,
    /// How many pulls run at a time; further ones wait. A namespace may start another one only while it has fewer than
    /// are free.
    pub max_concurrent_pulls: usize,
    /// How long after its last waiter left a pull is cancelled.
    pub patience: Duration,
    /// Normalised references that kubelet's garbage collection must spare.
    pub pinned_images: Vec<String>,
    /// Records the outcome and duration of each pull.
    pub metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry_config_path: "/etc/containerd/certs.d:/etc/docker/certs.d".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            handler_snapshotters: BTreeMap::new(),
            pace: Pace::default(),
            max_concurrent_pulls: 64,
            patience: Duration::from_secs(60),
            pinned_images: Vec::new(),
            metrics: Metrics::default(),
        }
    }
}

/// The images of this node. Clones share one state.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// An image record and the contents of its target.
type Read = (ImageRecord, Arc<Contents>);

struct Inner {
    containerd: Containerd,
    settings: Settings,
    tasks: Tasks,
    health: watch::Receiver<bool>,
    /// The platforms that this host runs, the best first.
    host: Vec<Platform>,
    index: Index,
    pulls: Flights<pull_image::Key, Result<String, Error>>,
    pull_slots: Slots,
    /// Snapshotters for which Transfer refused to unpack; forgotten when the connection to containerd is renewed.
    snapshotters_unpacked_by_pontoon: Mutex<HashSet<String>>,
    /// Bytes that all pulls have downloaded.
    downloaded: AtomicU64,
    unpacks: Flights<(String, String), Result<(), Error>>,
    user_dbs: UserDbs,
    /// One for each snapshotter, the default one first.
    disks: Vec<Disk>,
    /// Sizes of snapshots, shared with the stats verbs.
    layers: Layers,
}

impl Images {
    /// Starts with an empty index: call [`Images::refresh`] next. `health` says whether containerd responds.
    #[must_use]
    pub fn start(
        containerd: Containerd,
        layers: Layers,
        settings: Settings,
        tasks: Tasks,
        health: watch::Receiver<bool>,
    ) -> Self {
        let slots = settings.max_concurrent_pulls.max(1);
        Self {
            inner: Arc::new(Inner {
                containerd,
                health,
                host: platform::of_the_host(),
                index: Index::default(),
                pulls: Flights::new(tasks.clone()),
                pull_slots: Slots::new(Bounds::shared(slots)),
                snapshotters_unpacked_by_pontoon: Mutex::default(),
                downloaded: AtomicU64::new(0),
                unpacks: Flights::new(tasks.clone()),
                user_dbs: UserDbs::default(),
                disks: Disk::all(&settings),
                layers,
                settings,
                tasks,
            }),
        }
    }

    /// Reads all image records. To be called at start, and after each new subscription to the event stream, which has
    /// no replay. An image that cannot be used is indexed too, so that kubelet's garbage collection sees it. An image
    /// that could be read completely but has no record named by its id gets one.
    ///
    /// # Errors
    /// [`Error::Containerd`] when the list cannot be read; the index does not change.
    pub async fn refresh(&self) -> Result<(), Error> {
        // containerd may have been restarted with another configuration.
        self.inner.snapshotters_unpacked_by_pontoon.lock().clear();
        let ticket = self.inner.index.ticket();
        let records = match self.inner.containerd.list_images().await {
            Ok(records) => records,
            Err(error) => {
                self.inner.index.abandon(ticket);
                return Err(error.into());
            }
        };
        let names: HashSet<String> = records.iter().map(|record| record.name.clone()).collect();
        let (mut found, mut known) = (Vec::new(), HashMap::new());
        let mut adopt = Vec::new();
        for record in records {
            let contents = match known.get(&record.target.digest) {
                Some(contents) => Arc::clone(contents),
                None => match self.contents(&record).await {
                    Ok(contents) => contents,
                    // The connection to containerd broke: the old index is better than half of a new one.
                    Err(error) => {
                        self.inner.index.abandon(ticket);
                        return Err(error.into());
                    }
                },
            };
            known.insert(record.target.digest.clone(), Arc::clone(&contents));
            if contents.is_whole() && (!is_managed(&record) || !names.contains(&contents.id)) {
                adopt.push((record.clone(), Arc::clone(&contents)));
            }
            found.push((record.name.clone(), self.index_entry(&record, contents)));
        }
        self.inner.index.apply_all(ticket, found);
        for (record, contents) in adopt {
            self.adopt(&record, contents).await;
        }
        Ok(())
    }

    /// Handles an event: a record of this name was created, changed or removed, by us or by another client.
    pub async fn on_event(&self, name: &str) {
        if let Err(error) = self.refresh_name(name).await {
            tracing::warn!(name, %error, "an image cannot be read");
        }
    }

    /// The image that a reference, an id, or an unambiguous prefix of an id names, for creating a container.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unusable`] for an image without a root file system that runs on this host;
    /// [`Error::Invalid`] for an empty or ambiguous text.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Arc<Image>, Error> {
        let image = self.lookup(reference_or_id)?;
        match &image.unusable {
            None => Ok(image),
            Some(why) => Err(Error::Unusable { image: reference_or_id.to_owned(), why: Box::new(why.clone()) }),
        }
    }

    /// Whether a reference or id names the image with this id now: a tag may have moved or been removed.
    #[must_use]
    pub fn means(&self, reference_or_id: &str, id: &str) -> bool {
        self.lookup(reference_or_id).is_ok_and(|image| image.id == id)
    }

    /// The image that a reference or id names, whether it can be used or not.
    fn lookup(&self, reference_or_id: &str) -> Result<Arc<Image>, Error> {
        if reference_or_id.is_empty() {
            return Err(Error::image("no image reference"));
        }
        self.inner.index.resolve(reference_or_id)
    }

    /// How many pulls are running or waiting.
    #[must_use]
    pub fn pulls_in_flight(&self) -> usize {
        self.inner.pulls.len()
    }

    /// Bytes that all pulls of this process have downloaded.
    #[must_use]
    pub fn downloaded(&self) -> u64 {
        self.inner.downloaded.load(Ordering::Relaxed)
    }

    /// Updates one name of the index from containerd, and returns its record and contents.
    async fn refresh_name(&self, name: &str) -> Result<Option<Read>, Error> {
        let index = &self.inner.index;
        let ticket = index.ticket();
        match self.read(name).await {
            Ok(Some((record, contents))) => {
                index.apply(ticket, name, Some(self.index_entry(&record, Arc::clone(&contents))));
                if contents.is_whole() && !is_managed(&record) {
                    self.adopt(&record, Arc::clone(&contents)).await;
                }
                Ok(Some((record, contents)))
            }
            Ok(None) => {
                index.apply(ticket, name, None);
                Ok(None)
            }
            Err(error) => {
                index.abandon(ticket);
                Err(error)
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Read>, Error> {
        let record = match self.inner.containerd.get_image(name).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let contents = self.contents(&record).await?;
        Ok(Some((record, contents)))
    }

    async fn contents(&self, record: &ImageRecord) -> Result<Arc<Contents>, containerd::Error> {
        if let Some(contents) = self.inner.index.contents(&record.target.digest) {
            return Ok(contents);
        }
        let contents = Contents::read(&self.inner.containerd, &record.target, &self.inner.host).await?;
        Ok(Arc::new(contents))
    }

    /// Adopts an image that another tool created: writes a record named by the image's id, then our label on the
    /// original record. kubelet refers to images by id, so an image must not disappear when its tag moves.
    async fn adopt(&self, record: &ImageRecord, contents: Arc<Contents>) {
        for name in [&contents.id, &record.name] {
            if let Err(error) = self.write_record(name, record, is_pinned(record)).await {
                tracing::warn!(name, %error, "an image cannot be adopted");
                return;
            }
            if *name != record.name {
                let ticket = self.inner.index.ticket();
                self.inner.index.apply(ticket, name, Some(self.index_entry(record, Arc::clone(&contents))));
            }
        }
    }

    /// An image is pinned if the configuration names it, no matter when it was pulled and by which client, or if its
    /// record has the pin label, which other tools may set.
    fn index_entry(&self, record: &ImageRecord, contents: Arc<Contents>) -> IndexEntry {
        let pinned = is_pinned(record) || self.is_to_be_pinned(&record.name);
        IndexEntry { target: record.target.digest.clone(), contents, pinned }
    }

    fn is_to_be_pinned(&self, name: &str) -> bool {
        self.inner.settings.pinned_images.iter().any(|pinned| pinned == name)
    }

    /// Adds a record `name` with the target of `(like, contents)`, and updates the index without reading from
    /// containerd again.
    async fn add_record(&self, name: &str, (like, contents): &Read) -> Result<(), Error> {
        let index = &self.inner.index;
        let ticket = index.ticket();
        let record =
            ImageRecord { name: name.to_owned(), labels: our_labels(is_pinned(like)), target: like.target.clone() };
        match self.inner.containerd.create_image(record.clone()).await {
            Ok(()) => {
                index.apply(ticket, name, Some(self.index_entry(&record, Arc::clone(contents))));
                Ok(())
            }
            Err(error) => {
                index.abandon(ticket);
                if error.kind() != containerd::Kind::AlreadyExists {
                    return Err(error.into());
                }
                self.write_record(name, like, is_pinned(like)).await?;
                self.refresh_name(name).await.map(drop)
            }
        }
    }

    /// Points the record `name` at the target of `like`, with our labels; its other labels stay.
    async fn write_record(&self, name: &str, like: &ImageRecord, pinned: bool) -> Result<(), containerd::Error> {
        let managed = format!("labels.{}", MANAGED.0);
        let pin = format!("labels.{}", PINNED.0);
        let mut fields = vec!["target", managed.as_str()];
        if pinned {
            fields.push(&pin);
        }
        let record = ImageRecord { name: name.to_owned(), labels: our_labels(pinned), target: like.target.clone() };
        // Another client may create or delete the record between our two calls, so this is tried several times.
        for _ in 0..3 {
            match self.inner.containerd.update_image(record.clone(), &fields).await {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
            match self.inner.containerd.create_image(record.clone()).await {
                Err(error) if error.kind() == containerd::Kind::AlreadyExists => {}
                other => return other,
            }
        }
        self.inner.containerd.update_image(record, &fields).await
    }

    /// Waits up to `CONTAINERD_WAIT` for containerd to respond.
    async fn wait_for_containerd(&self, verb: Verb) -> Result<(), Error> {
        let mut health = self.inner.health.clone();
        match tokio::time::timeout(CONTAINERD_WAIT, health.wait_for(|up| *up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::ContainerdUnavailable(format!(
                "containerd does not answer at {}: {} waited {CONTAINERD_WAIT:?} for it, and has changed nothing",
                self.inner.containerd.address().display(),
                verb.name()
            ))),
        }
    }
}

fn is_managed(record: &ImageRecord) -> bool {
    record.labels.get(MANAGED.0).is_some_and(|value| value == MANAGED.1)
}

fn is_pinned(record: &ImageRecord) -> bool {
    record.labels.get(PINNED.0).is_some_and(|value| value == PINNED.1)
}

/// The labels of a record that we write.
fn our_labels(pinned: bool) -> HashMap<String, String> {
    let pin = pinned.then_some(PINNED);
    let all = [Some(MANAGED), pin].into_iter().flatten();
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
