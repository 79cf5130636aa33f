//! How long a session lasts: until it has to end, or has carried no data for too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// The state of every session, whichever protocol it speaks.
pub(super) struct SessionContext {
    /// Cancelled when the session has to end.
    pub(super) gone: CancellationToken,
    /// The session ends after carrying no data for this long.
    pub(super) idle: Duration,
    /// Tracks the tasks that the session spawns.
    pub(super) tasks: Tasks,
}

/// The time at which a session last carried a byte in either direction. Clones share the same time.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    start: Instant,
    /// Milliseconds since `start`.
    last: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    /// Records that a byte was carried.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Resolves when nothing has been carried for `limit`; never if the deadline exceeds the clock's range.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let quiet_since = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            match quiet_since.checked_add(limit) {
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
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

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_no_clock_reaches_is_none() {
        let year = Duration::from_secs(365 * 24 * 3600);
        assert!(tokio::time::timeout(year, Activity::start().idle(Duration::MAX)).await.is_err());
    }
}
