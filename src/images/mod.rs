//! ImageService: one file a verb. containerd pulls, verifies and unpacks; its image records are
//! the truth, and [`Images`] is an index of them that lists are served from.
//!
//! It must not do registry or archive work of its own, must not put an image's labels or
//! annotations on a containerd object, and must not believe what an image says of itself.
//! Called by the gRPC edge (verbs), by CreateContainer ([`Images::resolve`] and what follows from
//! it), and by whoever reads containerd's event stream ([`Images::on_event`], [`Images::refresh`]).

mod auth;
mod config;
mod copy;
mod copy_volume;
mod document;
mod errors;
mod fetch;
mod flight;
mod hosts;
mod image;
mod image_fs_info;
mod image_status;
mod index;
mod leases;
mod list_images;
mod manifest;
mod media;
mod places;
mod platform;
mod progress;
mod pull_image;
mod reference;
mod remove_image;
mod root;
mod unpack;
mod user_db;
mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use errors::{Error, Kind, Unusable};
pub use image::{Image, User};
pub use progress::Pace;
pub use reference::normalised;
pub use volume::{Volume, remove_mount_point};

use crate::containerd::{self, Containerd, ImageRecord, Platform};
use crate::slots::{Bounds, Slots};
use crate::stats::Layers;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use flight::Flights;
use image_fs_info::Disk;
use index::{Index, Named};
use manifest::Contents;
use user_db::UserDbs;

/// The label that says that a record's image has its id as a record too; containerd's own CRI
/// plugin and other tools know it.
const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// The label of an image that kubelet's garbage collection spares.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// A new mutating call waits this long for a containerd that is away.
const AWAY: Duration = Duration::from_secs(5);

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directories with `<host>/hosts.toml`, separated by colons.
    pub registry_config_path: String,
    /// The default snapshotter.
    pub snapshotter: String,
    /// Snapshotters of the runtime handlers; the default one's name is empty too.
    pub handler_snapshotters: BTreeMap<String, String>,
    /// When a download is too slow.
    pub pace: Pace,
    /// Pulls that run at a time, of a namespace no more than are left free; further ones wait.
    pub max_concurrent_pulls: usize,
    /// A pull is cancelled this long after its last waiter left.
    pub patience: Duration,
    /// References, normalised, that kubelet's garbage collection is to spare.
    pub pinned_images: Vec<String>,
    /// Hears of each pull.
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

/// The images of this node. Clones are the same.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// A record and what it points to.
type Read = (ImageRecord, Arc<Contents>);

struct Inner {
    containerd: Containerd,
    settings: Settings,
    tasks: Tasks,
    health: watch::Receiver<bool>,
    /// What this host runs, the best first.
    host: Vec<Platform>,
    index: Index,
    pulls: Flights<pull_image::Key, Result<String, Error>>,
    pull_places: Slots,
    /// Snapshotters that Transfer has said it does not unpack for, as long as containerd's connection lasts.
    unpacked_by_us: Mutex<HashSet<String>>,
    /// Bytes of all pulls.
    downloaded: AtomicU64,
    unpacks: Flights<(String, String), Result<(), Error>>,
    user_dbs: UserDbs,
    /// The default snapshotter first.
    disks: Vec<Disk>,
    /// Their sizes, which stats ask for too.
    layers: Layers,
}

impl Images {
    /// With an empty index: call [`Images::refresh`] next. `health` tells whether containerd answers.
    #[must_use]
    pub fn start(
        containerd: Containerd,
        layers: Layers,
        settings: Settings,
        tasks: Tasks,
        health: watch::Receiver<bool>,
    ) -> Self {
        let places = settings.max_concurrent_pulls.max(1);
        Self {
            inner: Arc::new(Inner {
                containerd,
                tasks,
                health,
                host: platform::of_the_host(),
                index: Index::default(),
                pulls: Flights::default(),
                pull_places: Slots::new(Bounds::shared(places)),
                unpacked_by_us: Mutex::default(),
                downloaded: AtomicU64::new(0),
                unpacks: Flights::default(),
                user_dbs: UserDbs::default(),
                disks: Disk::all(&settings),
                layers,
                settings,
            }),
        }
    }

    /// Reads all image records. To be called at start, and whenever the event stream has been
    /// subscribed to anew: it has no replay. An image that cannot be used is listed too, so that who frees the disk sees
    /// it; one that can be and has no record by its id gets that.
    ///
    /// # Errors
    /// [`Error::Containerd`] when there is no list; the index stays as it was.
    pub async fn refresh(&self) -> Result<(), Error> {
        // This containerd may have another configuration than the one before.
        self.inner.unpacked_by_us.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
                    // containerd went away over it: what is known is better than half of it.
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
            found.push((record.name.clone(), self.named(&record, contents)));
        }
        self.inner.index.apply_all(ticket, found);
        for (record, contents) in adopt {
            self.adopt(&record, contents).await;
        }
        Ok(())
    }

    /// A record of this name was made, changed or removed, by us or by somebody else.
    pub async fn on_event(&self, name: &str) {
        if let Err(error) = self.converge(name).await {
            tracing::warn!(name, %error, "an image cannot be read");
        }
    }

    /// The image that a reference, an id, or the unambiguous beginning of an id means, to make a container of.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unusable`] for what has no root file system that runs here; [`Error::Invalid`] for no
    /// text or an ambiguous one.
    pub async fn resolve(&self, reference_or_id: &str) -> Result<Arc<Image>, Error> {
        let image = self.lookup(reference_or_id)?;
        match &image.unusable {
            None => Ok(image),
            Some(why) => Err(Error::Unusable { image: reference_or_id.to_owned(), why: Box::new(why.clone()) }),
        }
    }

    /// Whether a reference or id means the image of an id, now: a tag may have moved, or be gone.
    #[must_use]
    pub fn means(&self, reference_or_id: &str, id: &str) -> bool {
        self.lookup(reference_or_id).is_ok_and(|image| image.id == id)
    }

    /// The image of a reference or id, whether it can be used or not.
    fn lookup(&self, reference_or_id: &str) -> Result<Arc<Image>, Error> {
        if reference_or_id.is_empty() {
            return Err(Error::image("no image reference"));
        }
        self.inner.index.resolve(reference_or_id)
    }

    /// How many pulls run or wait.
    #[must_use]
    pub fn pulls_in_flight(&self) -> usize {
        self.inner.pulls.len()
    }

    /// Bytes that all pulls of this process have downloaded.
    #[must_use]
    pub fn downloaded(&self) -> u64 {
        self.inner.downloaded.load(Ordering::Relaxed)
    }

    /// Makes the index say of one name what containerd says, and gives that.
    async fn converge(&self, name: &str) -> Result<Option<Read>, Error> {
        let index = &self.inner.index;
        let ticket = index.ticket();
        match self.read(name).await {
            Ok(Some((record, contents))) => {
                index.apply(ticket, name, Some(self.named(&record, Arc::clone(&contents))));
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

    /// Gives an image that another tool brought a record by its id, then the label on the one
    /// it came with: kubelet refers to it by id, and a moved tag must not take it away.
    async fn adopt(&self, record: &ImageRecord, contents: Arc<Contents>) {
        for name in [&contents.id, &record.name] {
            if let Err(error) = self.write_record(name, record, is_pinned(record)).await {
                tracing::warn!(name, %error, "an image cannot be adopted");
                return;
            }
            if *name != record.name {
                let ticket = self.inner.index.ticket();
                self.inner.index.apply(ticket, name, Some(self.named(record, Arc::clone(&contents))));
            }
        }
    }

    /// A name of the configuration is pinned whenever it came, and whoever brought it; a label of the record, which
    /// other tools may set, pins too.
    fn named(&self, record: &ImageRecord, contents: Arc<Contents>) -> Named {
        let pinned = is_pinned(record) || self.is_to_be_pinned(&record.name);
        Named { target: record.target.digest.clone(), contents, pinned }
    }

    fn is_to_be_pinned(&self, name: &str) -> bool {
        self.inner.settings.pinned_images.iter().any(|pinned| pinned == name)
    }

    /// Adds `name` for what `(like, contents)` is. The index knows it at once, without another look at containerd.
    async fn add_record(&self, name: &str, (like, contents): &Read) -> Result<(), Error> {
        let index = &self.inner.index;
        let ticket = index.ticket();
        let record =
            ImageRecord { name: name.to_owned(), labels: our_labels(is_pinned(like)), target: like.target.clone() };
        match self.inner.containerd.create_image(record.clone()).await {
            Ok(()) => {
                index.apply(ticket, name, Some(self.named(&record, Arc::clone(contents))));
                Ok(())
            }
            Err(error) => {
                index.abandon(ticket);
                if error.kind() != containerd::Kind::AlreadyExists {
                    return Err(error.into());
                }
                self.write_record(name, like, is_pinned(like)).await?;
                self.converge(name).await.map(drop)
            }
        }
    }

    /// Makes `name` point to where `like` points, with our labels; other labels on it stay.
    async fn write_record(&self, name: &str, like: &ImageRecord, pinned: bool) -> Result<(), containerd::Error> {
        let managed = format!("labels.{}", MANAGED.0);
        let pin = format!("labels.{}", PINNED.0);
        let mut fields = vec!["target", managed.as_str()];
        if pinned {
            fields.push(&pin);
        }
        let record = ImageRecord { name: name.to_owned(), labels: our_labels(pinned), target: like.target.clone() };
        // The record may come or go between two calls of ours; each round sees one state.
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

    /// Waits a little for a containerd that is away.
    async fn containerd_is_there(&self) -> Result<(), Error> {
        let mut health = self.inner.health.clone();
        match tokio::time::timeout(AWAY, health.wait_for(|up| *up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::Away(format!("containerd has not answered for {AWAY:?}"))),
        }
    }
}

fn is_managed(record: &ImageRecord) -> bool {
    record.labels.get(MANAGED.0).is_some_and(|value| value == MANAGED.1)
}

fn is_pinned(record: &ImageRecord) -> bool {
    record.labels.get(PINNED.0).is_some_and(|value| value == PINNED.1)
}

/// The labels that a record of ours has.
fn our_labels(pinned: bool) -> HashMap<String, String> {
    let pin = pinned.then_some(PINNED);
    let all = [Some(MANAGED), pin].into_iter().flatten();
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
