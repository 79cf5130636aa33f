//! PullImage: joins or starts a pull, and writes the records of the image.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;

use super::auth::Credentials;
use super::fetch::Fetch;
use super::progress::Monitor;
use super::reference::Reference;
use super::root_fs::in_future;
use super::{Error, Images, Read, leases, pull_slots};
use crate::api::v1::{ImageSpec, PullImageRequest, PullImageResponse};
use crate::containerd::ImageRecord;
use crate::flights::Flight;
use crate::log_keys::{LogKeys, add_keys};
use crate::mutex::Mutex;
use crate::telemetry::{Stage, Verb, during, millis};

/// Lifetime of a pull's lease. It matters if the daemon dies during a pull and no later daemon ends its leases: then
/// containerd collects the content after this time. Transfer's own lease has the same lifetime.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// Identifies a pull: callers with the same key share it. Other credentials make it another pull, since the registry
/// may refuse them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) reference: Reference,
    pub(super) credentials: Option<Credentials>,
    pub(super) snapshotter: String,
}

pub(super) type PullFlight = Flight<Key, Result<String, Error>>;

impl Images {
    /// Asks the registry what the reference means, with these credentials, and fetches what is not on this node.
    /// Callers with the same request share one pull, which continues when some of them leave.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a malformed reference or unusable credentials, and one variant for each way in which a
    /// registry fails.
    pub async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let spec = request.image.unwrap_or_default();
        add_keys(&LogKeys::of_image(&spec.image));
        if let Some(pod) = request.sandbox_config.as_ref().and_then(|config| config.metadata.as_ref()) {
            add_keys(&LogKeys::of_pod(&pod.namespace, &pod.name));
        }
        let reference = Reference::parse(&spec.image)?;
        let credentials = Credentials::from_config(request.auth.as_ref())?;
        let owner = pull_slots::owner(request.sandbox_config.as_ref(), &reference);
        let key = Key { reference, credentials, snapshotter: self.snapshotter(&spec)? };
        self.wait_for_containerd(Verb::PullImage).await?;
        let (images, of, name) = (self.clone(), key.clone(), key.reference.to_string());
        let tasks = &self.inner.tasks;
        let work = |flight: PullFlight| {
            let pull = async move { images.measured_pull(&of, &flight).await };
            tasks.run_named(Verb::PullImage, name.clone(), pull)
        };
        let pulled = self.inner.pulls.run_as(&owner, key, work);
        let image_ref = tasks.operations().waiting_for(Verb::PullImage, &name, pulled).await?;
        Ok(PullImageResponse { image_ref })
    }

    fn snapshotter(&self, spec: &ImageSpec) -> Result<String, Error> {
        let settings = &self.inner.settings;
        match settings.handler_snapshotters.get(&spec.runtime_handler) {
            Some(snapshotter) => Ok(snapshotter.clone()),
            None if spec.runtime_handler.is_empty() => Ok(settings.snapshotter.clone()),
            None => {
                let reason = format!("no runtime handler {:?} is configured", spec.runtime_handler);
                Err(Error::Invalid { field: "image.runtime_handler", reason })
            }
        }
    }

    async fn measured_pull(&self, key: &Key, flight: &PullFlight) -> Result<String, Error> {
        let started = Instant::now();
        let result = self.pull(key, flight).await;
        let outcome = result.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
        self.inner.settings.metrics.pull(outcome, started.elapsed());
        result
    }

    async fn pull(&self, key: &Key, flight: &PullFlight) -> Result<String, Error> {
        let reference = key.reference.to_string();
        let started = Instant::now();
        let before = self.record_of(&reference).await?;
        // The lease keeps containerd's garbage collector from removing content between two steps.
        let lease = leases::name("pull");
        let leased = self.inner.containerd.leased(&lease, &in_future(LEASE)).await?;
        let monitor = Mutex::new(Monitor::new(self.inner.settings.pace));
        let fetch = Fetch { images: self, key, flight, leased: &leased, monitor, refused: AtomicBool::new(false) };
        let fetched = fetch.run().await;
        // What follows is only our own bookkeeping, and always runs to its end.
        let result = match fetched {
            Ok(read) => during(Stage::Record, self.record(key, read)).await,
            Err(error) => {
                self.restore_reference(&reference, before).await;
                Err(error)
            }
        };
        // After a failed pull, containerd also collects what the pull has fetched.
        if let Err(error) = self.inner.containerd.delete_lease(&lease, result.is_err()).await {
            tracing::warn!(%error, "cannot delete a lease; it stays until it expires");
        }
        let id = result?;
        fetch.remember_refusal();
        let bytes = fetch.monitor().bytes();
        tracing::info!(%id, bytes, ms = millis(started.elapsed()), "pulled");
        Ok(id)
    }

    async fn record_of(&self, name: &str) -> Result<Option<ImageRecord>, Error> {
        match self.inner.containerd.get_image(name).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Restores the meaning that a reference had before a pull that failed: Transfer writes the record before we see
    /// that the image cannot be used, and the record would keep the blobs on the disk.
    async fn restore_reference(&self, reference: &str, before: Option<ImageRecord>) {
        let result = match (self.record_of(reference).await, before) {
            (Ok(Some(now)), before) if before.as_ref().is_none_or(|before| before.target != now.target) => match before
            {
                Some(before) => self.inner.containerd.update_image(before, &["target", "labels"]).await,
                None => self.inner.containerd.delete_image(reference, false).await,
            },
            _ => return,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "cannot restore the image record after a failed pull");
        }
        self.on_event(reference).await;
    }

    /// Writes the records that a pull leaves in addition to Transfer's own, and makes sure that the image is unpacked:
    /// there are snapshotters for which Transfer does not unpack.
    async fn record(&self, key: &Key, pulled: Read) -> Result<String, Error> {
        let reference = key.reference.to_string();
        let id = pulled.1.id.clone();
        let names = [id.clone(), key.reference.with_digest(&pulled.0.target.digest)];
        for name in names.iter().filter(|name| **name != reference) {
            self.add_record(name, &pulled).await?;
        }
        let image = self.inner.index.resolve(&id)?;
        self.ensure_unpacked(&image, &key.snapshotter).await?;
        Ok(id)
    }
}
