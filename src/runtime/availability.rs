//! Whether containerd responds.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::{Error, Result};
use crate::events::Pulse;
use crate::task::Health;
use crate::telemetry::Verb;

/// How long a new mutating call waits for containerd to come back (docs/rulings.md 10).
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether containerd responds, as the event pump observes it.
pub struct Availability {
    health: Health,
    pulse: Pulse,
    /// containerd's socket.
    address: PathBuf,
}

impl Availability {
    #[must_use]
    pub fn new(health: Health, pulse: Pulse, address: PathBuf) -> Self {
        Self { health, pulse, address }
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.health.borrow()
    }

    /// For how long containerd has not responded, although it accepts connections.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.pulse.silence()
    }

    /// Follows whether containerd responds.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.health.clone()
    }

    /// Waits until containerd responds, so that a mutating call does not start without it.
    ///
    /// # Errors
    /// [`Error::ContainerdAway`] after 5 seconds.
    pub(super) async fn ready(&self, verb: Verb) -> Result<()> {
        let mut health = self.watch();
        let up = health.wait_for(|up| *up);
        match tokio::time::timeout(PATIENCE, up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::ContainerdAway { address: self.address.clone(), verb, waited: PATIENCE }),
        }
    }
}
