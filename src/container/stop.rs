//! A stop in progress, whose deadline can be brought forward while it waits.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a process has between the stop signal and SIGKILL; zero kills at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(Duration);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the process to end until this time; `None` is later than the clock can represent.
    Until(Option<Instant>),
    /// Finished or given up: the next StopContainer starts a new stop.
    Over,
}

/// A stop in progress, shared by all its callers.
#[derive(Debug)]
pub struct Stop {
    phase: watch::Sender<Phase>,
}

impl Grace {
    /// From CRI's seconds; a negative number counts as 0.
    #[must_use]
    pub fn seconds(seconds: i64) -> Self {
        Self(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Kill at once.
    pub const NONE: Self = Self(Duration::ZERO);

    fn deadline(self) -> Option<Instant> {
        Instant::now().checked_add(self.0)
    }
}

impl Stop {
    pub(super) fn new(grace: Grace) -> Self {
        Self { phase: watch::Sender::new(Phase::Until(grace.deadline())) }
    }

    /// Whether the grace period is already over, so that no stop signal is sent.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Until(Some(deadline)) if deadline <= Instant::now())
    }

    /// Brings the deadline forward if `grace` from now is earlier. False if this stop is finished.
    pub(super) fn shorten(&self, grace: Grace) -> bool {
        let wanted = grace.deadline();
        let mut running = false;
        self.phase.send_if_modified(|phase| {
            let Phase::Until(deadline) = phase else { return false };
            running = true;
            let earlier = match (wanted, *deadline) {
                (Some(wanted), Some(deadline)) => wanted < deadline,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if earlier {
                *deadline = wanted;
            }
            earlier
        });
        running
    }

    /// Resolves when the grace period is over, even if it is shortened while waiting.
    pub async fn grace_over(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            let deadline = match *phase.borrow_and_update() {
                Phase::Over => return,
                Phase::Until(deadline) => deadline,
            };
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => return,
                // Cannot fail: `self` holds the sender.
                _ = phase.changed() => {}
            }
        }
    }

    /// Marks this stop as finished, whether it succeeded or not.
    pub fn finish(&self) {
        self.phase.send_replace(Phase::Over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_shorter_grace_shortens() {
        let stop = Stop::new(Grace::seconds(3600));
        let start = Instant::now();
        let shorten = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(stop.shorten(Grace::seconds(10)));
        };
        tokio::join!(stop.grace_over(), shorten);
        assert_eq!(start.elapsed().as_secs(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_longer_grace_changes_nothing() {
        let stop = Stop::new(Grace::seconds(2));
        let start = Instant::now();
        assert!(stop.shorten(Grace::seconds(1000)));
        stop.grace_over().await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_is_over_is_not_joined() {
        let stop = Stop::new(Grace::NONE);
        stop.finish();
        assert!(!stop.shorten(Grace::NONE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_grace_beyond_every_clock_is_no_panic() {
        let stop = Stop::new(Grace::seconds(i64::MAX));
        assert!(stop.shorten(Grace::seconds(1)));
        stop.grace_over().await;
    }
}
