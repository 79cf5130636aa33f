//! The pulse: whether containerd responds at all. If it hangs (SIGSTOP, a dead disk below it), its connections stay
//! open, and the event stream does not end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::outages::Outages;
use crate::containerd::Error;
use crate::mutex::Mutex;

/// Pause between a response and the next request.
const PAUSE: Duration = Duration::from_secs(3);
/// How long a response may take. With the pause before it, a hang is detected within 10 s.
const PATIENCE: Duration = Duration::from_secs(6);

/// Since when a request to containerd has been waiting for a response. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// How long containerd has not responded, if that is longer than a response may take.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let pending_since = *self.0.lock();
        pending_since.map(|since| since.elapsed()).filter(|silence| *silence >= PATIENCE)
    }

    fn set_pending(&self, at: Option<Instant>) {
        *self.0.lock() = at;
    }

    /// Sends requests to containerd for as long as it is polled. An outage begins when a response is overdue, and ends
    /// once it has come. An overdue request is not dropped, so that a hanging containerd has one request to answer, and
    /// not all that would have been sent in that time.
    pub(super) async fn follow<A>(&self, ask: impl Fn() -> A, outages: &Outages) -> Infallible
    where
        A: Future<Output = Result<(), Error>>,
    {
        // Clears the time when this future is dropped, because the connection is gone.
        let _clear = ClearOnDrop(self);
        loop {
            sleep(PAUSE).await;
            self.set_pending(Some(Instant::now()));
            let mut answer = std::pin::pin!(ask());
            let answered = match timeout(PATIENCE, &mut answer).await {
                Ok(answered) => answered,
                Err(_) => {
                    outages.begin(&format!("it accepts calls, and has not answered for {PATIENCE:?}: it hangs"));
                    answer.await
                }
            };
            self.set_pending(None);
            // An error does not count as a hang: if containerd is gone, the event stream ends.
            if outages.is_away() && answered.is_ok() {
                outages.end();
            }
        }
    }
}

struct ClearOnDrop<'a>(&'a Pulse);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set_pending(None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::path::Path;

    use tokio::sync::{Notify, watch};

    use super::*;

    /// Runs the pulse in parallel with the scenario of a test.
    async fn with_scenario<A: Future<Output = Result<(), Error>>>(
        ask: impl Fn() -> A,
        story: impl AsyncFnOnce(&Pulse, watch::Receiver<bool>),
    ) {
        let (pulse, (health, seen)) = (Pulse::default(), watch::channel(true));
        let outages = Outages::new(health, Path::new("/run/containerd.sock"));
        tokio::select! {
            never = pulse.follow(ask, &outages) => match never {},
            () = story(&pulse, seen) => {}
        }
        assert_eq!(pulse.silence(), None, "of a pulse that is not followed any more");
    }

    #[tokio::test(start_paused = true)]
    async fn f5_a_hang_is_detected_within_ten_seconds_and_ends_with_the_response() {
        let resumed = Notify::new();
        let ask = || async {
            resumed.notified().await;
            Ok(())
        };
        with_scenario(ask, async |pulse, mut health| {
            timeout(Duration::from_secs(10), health.wait_for(|up| !up)).await.unwrap().unwrap();
            sleep(Duration::from_secs(20)).await;
            assert_eq!(pulse.silence().unwrap().as_secs(), 26);
            resumed.notify_one();
            timeout(Duration::from_millis(1), health.wait_for(|up| *up)).await.unwrap().unwrap();
            assert_eq!(pulse.silence(), None);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_response_is_no_outage() {
        let ask = || async {
            sleep(PATIENCE - Duration::from_millis(1)).await;
            Ok(())
        };
        with_scenario(ask, async |_, mut health| {
            let hour = Duration::from_secs(3600);
            assert!(timeout(hour, health.wait_for(|up| !up)).await.is_err());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_once_until_there_is_an_answer() {
        let asked = std::cell::Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            pending()
        };
        with_scenario(ask, async |_, _| sleep(Duration::from_secs(600)).await).await;
        assert_eq!(asked.get(), 1);
    }
}
