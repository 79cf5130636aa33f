//! How long the owner of a task waits before it tries again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// After the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(5);
/// Between two lines in the log about the same trouble.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Whether containerd answers.
pub type Health = watch::Receiver<bool>;

/// The pauses between tries that fail.
#[derive(Debug)]
pub struct Pace {
    health: Health,
    pause: Duration,
    told: Option<Instant>,
}

impl Pace {
    /// None has failed.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self { health, pause: FIRST, told: None }
    }

    /// The last try succeeded.
    pub(super) fn reset(&mut self) {
        self.pause = FIRST;
        self.told = None;
    }

    /// Whether the trouble is to be told: at first after a second or so, and then once a minute.
    pub fn is_news(&mut self) -> bool {
        let news = self.pause > FIRST * 8 && self.told.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if news {
            self.told = Some(Instant::now());
        }
        news
    }

    /// Whether the last try failed.
    pub(super) fn is_troubled(&self) -> bool {
        self.pause > FIRST
    }

    /// Waits for the next try: no longer than until containerd is back.
    pub async fn pause(&mut self) {
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
        let back = async {
            // A daemon that goes down tells nothing any more.
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

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_the_log_hears_once_a_minute() {
        let (_sender, health) = watch::channel(true);
        let mut pace = Pace::new(health);
        let start = Instant::now();
        let mut told = 0;
        while start.elapsed() < Duration::from_secs(150) {
            pace.pause().await;
            told += u32::from(pace.is_news());
        }
        assert_eq!(told, 3);
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
