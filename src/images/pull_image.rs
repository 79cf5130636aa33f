//! PullImage.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::auth::Credentials;
use super::flight::Pilot;
use super::hosts::Registry;
use super::progress::Monitor;
use super::reference::Reference;
use super::{Error, Images, our_labels};
use crate::api::v1::{ImageSpec, PullImageRequest, PullImageResponse};
use crate::containerd::{Progress, Pull, PullError, PullFailure};
use crate::telemetry::{Stage, Verb, during};

/// Pulls that are the same pull. Another credential is another: it may be refused.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    reference: Reference,
    credentials: Option<Credentials>,
    snapshotter: String,
}

type Flight = Pilot<Key, Result<String, Error>>;

impl Images {
    /// Asks the registry what the reference means, with these credentials, and gets what is not
    /// here. Callers that want the same share one pull, which goes on when some of them leave.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad reference or credentials that cannot be used, and one
    /// variant for each way in which a registry fails.
    pub async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let spec = request.image.unwrap_or_default();
        let reference = Reference::parse(&spec.image)?;
        let credentials = Credentials::from_config(request.auth.as_ref())?;
        let key = Key { reference, credentials, snapshotter: self.snapshotter(&spec)? };
        self.containerd_is_there().await?;
        let name = key.reference.to_string();
        let (seat, pilot) = self.inner.pulls.join(key.clone());
        if let Some(pilot) = pilot {
            let images = self.clone();
            self.inner.tasks.operation(self.inner.tasks.named(Verb::PullImage, name.clone(), async move {
                let result = images.fly(&key, &pilot).await;
                pilot.land(result);
            }));
        }
        let crashed = || Err(Error::Pull { reference: name, message: "it ended in a panic".to_owned() });
        let image_ref = seat.arrive().await.unwrap_or_else(crashed)?;
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

    async fn fly(&self, key: &Key, pilot: &Flight) -> Result<String, Error> {
        let started = Instant::now();
        let result = self.pull(key, pilot).await;
        let outcome = result.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
        self.inner.settings.metrics.pull(outcome, started.elapsed());
        result
    }

    async fn pull(&self, key: &Key, pilot: &Flight) -> Result<String, Error> {
        let started = Instant::now();
        let reference = key.reference.to_string();
        let monitor = Mutex::new(Monitor::new(self.inner.settings.pace));
        tokio::select! {
            result = self.transfer(key, &monitor) => result?,
            () = self.too_slow(&monitor) => return Err(too_slow(&reference, &lock(&monitor))),
            // Dropping the transfer cancels it.
            () = pilot.abandoned(self.inner.settings.patience) => return Err(Error::Abandoned(reference)),
        }
        // From here on it is only our own bookkeeping, and runs to its end.
        let id = during(Stage::Record, self.record(key)).await?;
        let bytes = lock(&monitor).bytes();
        let took = started.elapsed();
        tracing::info!(reference, image = id, bytes, ?took, "pulled");
        Ok(id)
    }

    async fn transfer(&self, key: &Key, monitor: &Mutex<Monitor>) -> Result<(), Error> {
        let _place = during(Stage::Queue, self.inner.pull_places.acquire()).await;
        let reference = key.reference.to_string();
        let (config_path, host) = (self.inner.settings.registry_config_path.clone(), key.reference.host().to_owned());
        let registry = tokio::task::spawn_blocking(move || Registry::find(&config_path, &host)).await;
        let registry = registry.unwrap_or_default();
        let pull = Pull {
            reference: reference.clone(),
            host_dir: registry.directory,
            platform: self.inner.platform.clone(),
            snapshotter: key.snapshotter.clone(),
            labels: our_labels(self.is_to_be_pinned(&reference)),
        };
        let login = key.credentials.as_ref().map(|credentials| {
            let hosts = registry.hosts;
            move |host: &str| credentials.login(host, &hosts)
        });
        lock(monitor).start();
        let progress = |progress: Progress| lock(monitor).observe(progress, &self.inner.downloaded);
        let result = during(Stage::Transfer, self.inner.containerd.pull(pull, login, progress)).await;
        result.map_err(|error| failed(key, error))
    }

    /// Resolves when the download is too slow.
    async fn too_slow(&self, monitor: &Mutex<Monitor>) {
        let mut seconds = interval(Duration::from_secs(1));
        // A node that slept or stalled must not count that against the registry.
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            if lock(monitor).tick(&self.inner.downloaded) {
                return;
            }
        }
    }

    /// Writes the records that a pull leaves beside the one that Transfer wrote, and checks
    /// that the image is unpacked: Transfer skips a snapshotter that it is not configured for.
    async fn record(&self, key: &Key) -> Result<String, Error> {
        let reference = key.reference.to_string();
        let pulled = self.converge(&reference).await?.ok_or_else(|| Error::NotFound(reference.clone()))?;
        let id = pulled.1.config.digest.clone();
        let names = [id.clone(), key.reference.with_digest(&pulled.0.target.digest)];
        for name in names.iter().filter(|name| **name != reference) {
            self.add_record(name, &pulled).await?;
        }
        let image = self.inner.index.resolve(&id)?;
        self.ensure_unpacked(&image, &key.snapshotter).await?;
        Ok(id)
    }
}

fn lock(monitor: &Mutex<Monitor>) -> std::sync::MutexGuard<'_, Monitor> {
    monitor.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_slow(reference: &str, monitor: &Monitor) -> Error {
    let pace = monitor.pace();
    Error::TooSlow {
        reference: reference.to_owned(),
        bytes_per_second: pace.bytes_per_second,
        seconds: pace.window.as_secs(),
        waiting: monitor.waiting(),
    }
}

fn failed(key: &Key, error: PullError) -> Error {
    let reference = key.reference.to_string();
    let message = match &key.credentials {
        Some(credentials) => credentials.redact(&error.message),
        None => error.message,
    };
    match error.failure {
        PullFailure::NotFound => Error::NotInRegistry { reference, message },
        PullFailure::Denied => Error::Denied { reference, host: key.reference.host().to_owned(), message },
        PullFailure::Unreachable => Error::RegistryUnavailable { reference, message },
        PullFailure::Refused => Error::SignatureValidationFailed { reference, message },
        PullFailure::Exhausted => Error::Exhausted { reference, message },
        PullFailure::Away => Error::Away(message),
        PullFailure::Invalid | PullFailure::Cancelled | PullFailure::Other => Error::Pull { reference, message },
    }
}
