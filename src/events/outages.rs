//! Whether containerd responds: published for all who wait for that, and logged once when it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::mutex::Mutex;
use crate::telemetry::millis;

/// What was last seen of containerd.
#[derive(Clone, Copy)]
enum Seen {
    /// Nothing yet: the process is starting.
    Nothing,
    Up,
    Away {
        since: Instant,
    },
}

/// The outages of containerd, seen by the event stream and by the pulse.
pub(super) struct Outages {
    /// True while containerd responds.
    health: watch::Sender<bool>,
    /// containerd's socket.
    address: PathBuf,
    seen: Mutex<Seen>,
}

impl Outages {
    pub(super) fn new(health: watch::Sender<bool>, address: &Path) -> Self {
        Self { health, address: address.to_owned(), seen: Mutex::new(Seen::Nothing) }
    }

    pub(super) fn is_away(&self) -> bool {
        !*self.health.borrow()
    }

    /// containerd does not respond. An outage is logged once: its reason may change with each attempt to connect.
    /// Returns whether it has begun now.
    pub(super) fn begin(&self, reason: &str) -> bool {
        let address = self.address.display();
        let begins = {
            let mut seen = self.seen.lock();
            let begins = !matches!(*seen, Seen::Away { .. });
            if begins {
                *seen = Seen::Away { since: Instant::now() };
            }
            begins
        };
        if begins {
            tracing::warn!(%address, reason, "containerd does not answer; calls that change something wait or fail until it does");
        } else {
            tracing::debug!(%address, reason, "containerd still does not answer");
        }
        self.health.send_replace(false);
        begins
    }

    /// containerd responds. Returns how long it has been away, if it was.
    pub(super) fn end(&self) -> Option<Duration> {
        let before = std::mem::replace(&mut *self.seen.lock(), Seen::Up);
        let away = match before {
            Seen::Away { since } => Some(since.elapsed()),
            Seen::Nothing | Seen::Up => None,
        };
        if let Some(away) = away {
            tracing::info!(address = %self.address.display(), ms = millis(away), "containerd answers again");
        }
        self.health.send_replace(true);
        away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_logged_once_and_so_is_its_end() {
        let (health, up) = watch::channel(false);
        let outages = Outages::new(health, Path::new("/run/c.sock"));
        assert_eq!(outages.end(), None, "a start is no end of an outage");
        assert!(*up.borrow());
        assert!(outages.begin("broken pipe"));
        assert!(!*up.borrow() && outages.is_away());
        for reason in ["no such file", "connection refused", "no such file"] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!outages.begin(reason));
        }
        assert_eq!(outages.end(), Some(Duration::from_secs(3)));
        assert_eq!(outages.end(), None);
        assert!(*up.borrow());
        // The next outage is another one, even if its reason is the same.
        assert!(outages.begin("no such file"));
    }

    #[test]
    fn a_containerd_that_has_never_answered_is_away_too() {
        let (health, up) = watch::channel(false);
        let outages = Outages::new(health, Path::new("/run/c.sock"));
        assert!(outages.begin("no such file"));
        assert!(!*up.borrow());
    }
}
