//! Fetches the content of an image. One Transfer is usually enough; another one fetches what the first leaves out,
//! since Transfer
//!
//! - fetches only the host's own platform, even where the host runs older ones too;
//! - unpacks only for the snapshotters of its own configuration, and refuses the pull for any other;
//! - does not fetch a layer that is already unpacked, even if its archive was deleted and another snapshotter needs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::hosts::Registry;
use super::manifest::Contents;
use super::progress::Monitor;
use super::pull_image::{Key, PullFlight};
use super::{Error, Images, Read, Unusable, our_labels, platform, pull_slots};
use crate::containerd::{Containerd, Platform, Progress, Pull, PullError, PullFailure};
use crate::joined::run_blocking;
use crate::mutex::{Mutex, MutexGuard};
use crate::telemetry::{Stage, during};

/// A pull in progress.
pub(super) struct Fetch<'a> {
    pub(super) images: &'a Images,
    pub(super) key: &'a Key,
    pub(super) flight: &'a PullFlight,
    /// A client under the pull's lease, which holds all that is fetched until the pull is over.
    pub(super) leased: &'a Containerd,
    pub(super) monitor: Mutex<Monitor>,
    /// Whether Transfer has refused to unpack.
    pub(super) refused: AtomicBool,
}

impl Fetch<'_> {
    /// Queries the registry, and fetches what is not on this node.
    ///
    /// # Errors
    /// One variant for each way in which a registry fails; [`Error::Unusable`] for an image that has nothing for this
    /// host.
    pub(super) async fn run(&self) -> Result<Read, Error> {
        let host = &self.images.inner.host;
        let best = host.first().cloned().unwrap_or_default();
        let mut read = self.unpacked(best.clone()).await?;
        let mut of = best;
        if let Some(Unusable::Missing { platform: Some(other), .. }) = &read.1.unusable
            && platform::rank(other, host).is_some_and(|rank| rank > 0)
        {
            of = other.clone();
            read = self.unpacked(of.clone()).await?;
        }
        if self.has_gaps(&read.1).await? {
            read = self.transfer(of, None).await?;
        }
        match &read.1.unusable {
            Some(why) if !read.1.is_whole() => {
                Err(Error::Unusable { image: self.key.reference.to_string(), why: Box::new(why.clone()) })
            }
            _ => Ok(read),
        }
    }

    /// Fetches the content for a platform, and has Transfer unpack it if Transfer does that for this snapshotter.
    async fn unpacked(&self, platform: Platform) -> Result<Read, Error> {
        let snapshotter = &self.key.snapshotter;
        if self.images.inner.snapshotters_unpacked_by_pontoon.lock().contains(snapshotter) {
            return self.transfer(platform, None).await;
        }
        match self.transfer(platform.clone(), Some(snapshotter.clone())).await {
            // Only the error code shows that the snapshotter was refused. It may also mean that the image was refused:
            // then the second Transfer fails with the same code.
            Err(Error::InvalidPull { .. }) => {
                self.refused.store(true, Ordering::Relaxed);
                self.transfer(platform, None).await
            }
            other => other,
        }
    }

    /// Remembers not to ask Transfer to unpack for this snapshotter again. To be called when the pull has succeeded:
    /// then Transfer refused the snapshotter, not the image.
    pub(super) fn remember_refusal(&self) {
        let snapshotter = &self.key.snapshotter;
        if self.refused.load(Ordering::Relaxed)
            && self.images.inner.snapshotters_unpacked_by_pontoon.lock().insert(snapshotter.clone())
        {
            tracing::warn!(snapshotter, "containerd's Transfer does not unpack for this snapshotter: Pontoon does");
        }
    }

    /// Runs one Transfer, then reads what the reference means. Dropping a Transfer cancels it; the reading is never
    /// dropped.
    async fn transfer(&self, platform: Platform, snapshotter: Option<String>) -> Result<Read, Error> {
        let reference = self.key.reference.to_string();
        tokio::select! {
            result = self.call(platform, snapshotter) => result?,
            () = self.too_slow() => return Err(self.error_of_pace()),
            () = self.flight.abandoned(self.images.inner.settings.patience) => return Err(Error::Abandoned(reference)),
        }
        self.images.refresh_name(&reference).await?.ok_or(Error::NotFound(reference))
    }

    async fn call(&self, platform: Platform, snapshotter: Option<String>) -> Result<(), Error> {
        let Images { inner } = self.images;
        let _slot = during(Stage::Queue, pull_slots::wait_for_slot(&inner.pull_slots, self.flight.owners())).await;
        let reference = self.key.reference.to_string();
        let (config_path, host) = (inner.settings.registry_config_path.clone(), self.key.reference.host().to_owned());
        let registry = run_blocking(move || Registry::find(&config_path, &host)).await;
        let pull = Pull {
            host_dir: registry.directory,
            platform,
            snapshotter,
            labels: our_labels(self.images.is_to_be_pinned(&reference)),
            reference,
        };
        let login = self.key.credentials.as_ref().map(|credentials| {
            let hosts = registry.hosts;
            move |host: &str| credentials.login(host, &hosts)
        });
        self.monitor().start();
        let progress = |progress: Progress| self.monitor().observe(progress, &inner.downloaded);
        let result = during(Stage::Transfer, self.leased.pull(pull, login, progress)).await;
        result.map_err(|error| failed(self.key, error))
    }

    /// Whether the archive of a layer is missing on this node. Always false for a snapshotter that fetches layers by
    /// itself: it leaves out all archives.
    async fn has_gaps(&self, contents: &Contents) -> Result<bool, Error> {
        let containerd = &self.images.inner.containerd;
        for layer in &contents.layers {
            if !containerd.has_blob(&layer.blob.digest).await? {
                let plugins = containerd.plugins().await?;
                let mut snapshotters = plugins.iter().filter(|plugin| plugin.kind == "io.containerd.snapshotter.v1");
                let own = snapshotters.find(|plugin| plugin.id == self.key.snapshotter);
                let exports = own.and_then(|plugin| plugin.exports.get("enable_remote_snapshot_annotations"));
                return Ok(exports.is_none_or(|value| value != "true"));
            }
        }
        Ok(false)
    }

    /// Resolves when the download is too slow.
    async fn too_slow(&self) {
        let mut seconds = interval(Duration::from_secs(1));
        // Time in which the node slept or stalled must not count against the registry.
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            if self.monitor().tick(&self.images.inner.downloaded) {
                return;
            }
        }
    }

    fn error_of_pace(&self) -> Error {
        let monitor = self.monitor();
        let pace = monitor.pace();
        Error::TooSlow {
            reference: self.key.reference.to_string(),
            bytes_per_second: pace.bytes_per_second,
            seconds: pace.window.as_secs(),
            waiting: monitor.waiting(),
        }
    }

    pub(super) fn monitor(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock()
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
        PullFailure::Unavailable => Error::ContainerdUnavailable(format!("pull {reference}: {message}")),
        PullFailure::Invalid => Error::InvalidPull { reference, message },
        PullFailure::Cancelled | PullFailure::Other => Error::Pull { reference, message },
    }
}
