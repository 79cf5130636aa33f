//! How long the owner of a task waits before it tries again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::containerd::Error;

/// The pause after the first failure. Each further failure doubles it.
const FIRST: Duration = Duration::from_millis(50);
/// Maximum pause between two tries.
const LONGEST: Duration = Duration::from_secs(5);
/// The interval between two log lines about the same problem.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Whether containerd responds.
pub type Health = watch::Receiver<bool>;

/// The pauses between failing tries.
#[derive(Debug)]
pub struct Pace {
    health: Health,
    pause: Duration,
    last_logged: Option<Instant>,
}

impl Pace {
    /// Starts without a failure.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self { health, pause: FIRST, last_logged: None }
    }

    /// The last try succeeded.
    pub(super) fn reset(&mut self) {
        self.pause = FIRST;
        self.last_logged = None;
    }

    /// Whether to log the error: for the first time after about a second, and then once a minute. An error of an outage
    /// of containerd is not logged for each task, because the log says once that containerd is away.
    pub fn should_log(&mut self, error: &Error) -> bool {
        let of_outage = error.is_away() && !*self.health.borrow();
        let due = !of_outage && self.pause > FIRST * 8 && self.last_logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN);
        if due {
            self.last_logged = Some(Instant::now());
        }
        due
    }

    /// Whether the last try failed.
    pub(super) fn is_failing(&self) -> bool {
        self.pause > FIRST
    }

    /// Waits before the next try. Ends early when containerd comes back.
    pub async fn pause(&mut self) {
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
        let back = async {
            // A failure means that the daemon is shutting down: there are no further reports about containerd.
            if self.health.wait_for(|up| !*up).await.is_err() || self.health.wait_for(|up| *up).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(pause, back).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::Kind;

    fn error(kind: Kind) -> Error {
        Error::new("kill task", "some-id", kind, "for a test")
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_is_known_is_not_logged_for_each_task() {
        let (sender, health) = watch::channel(false);
        let mut pace = Pace::new(health);
        for _ in 0..8 {
            pace.pause().await;
        }
        assert!(!pace.should_log(&error(Kind::Unavailable)));
        // It is another problem, or lasts longer than the outage.
        assert!(pace.should_log(&error(Kind::Other)));
        pace.last_logged = None;
        sender.send_replace(true);
        assert!(pace.should_log(&error(Kind::Unavailable)));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_the_log_hears_once_a_minute() {
        let (_sender, health) = watch::channel(true);
        let mut pace = Pace::new(health);
        let start = Instant::now();
        let mut logged = 0;
        while start.elapsed() < Duration::from_secs(150) {
            pace.pause().await;
            logged += u32::from(pace.should_log(&error(Kind::Unavailable)));
        }
        assert_eq!(logged, 3);
        let before = Instant::now();
        pace.pause().await;
        assert_eq!(before.elapsed(), LONGEST);
        pace.reset();
        let before = Instant::now();
        pace.pause().await;
        assert_eq!(before.elapsed(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_is_back_is_asked_at_once() {
        let (sender, health) = watch::channel(false);
        let mut pace = Pace::new(health);
        for _ in 0..20 {
            pace.pause().await;
        }
        let start = Instant::now();
        let back = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sender.send_replace(true);
        };
        tokio::join!(pace.pause(), back);
        assert_eq!(start.elapsed(), Duration::from_millis(10));
    }
}
