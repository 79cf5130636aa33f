//! When a session last carried a byte, either way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by all that carry bytes of one session.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    /// Milliseconds since the start.
    last: AtomicU64,
}

impl Activity {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// A byte was carried.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Resolves when nothing was carried for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let quiet_since = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let until = quiet_since + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_byte_puts_the_end_off() {
        let activity = Activity::start();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour - Duration::from_secs(1), activity.idle(hour)).await.is_err());
        activity.touch();
        assert!(tokio::time::timeout(hour - Duration::from_secs(1), activity.idle(hour)).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(2), activity.idle(hour)).await.is_ok());
    }
}
