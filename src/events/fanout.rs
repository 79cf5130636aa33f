//! Sends what happens to sandboxes and containers to any number of subscribers (GetContainerEvents).
//!
//! The sender never waits. A ring buffer holds the latest events. A subscriber that falls further behind is told
//! that it has missed some, and can then catch up from the store. The buffer holds only which object changed and how.
//! The status is looked up when a subscriber takes the event, so that a slow subscriber costs neither memory nor
//! time.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::Clock;
use crate::sandbox::Sandbox;

/// Capacity of the ring buffer, in events. On a node with 250 pods of four containers, all may end at once.
const CAPACITY: usize = 1024;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was added to the store.
    Created,
    /// Its process was started.
    Started,
    /// Its process has ended, or could not be started.
    Stopped,
    /// It was removed from the store.
    Deleted,
}

/// What happened, and to which object.
#[derive(Clone, Debug)]
pub struct ObjectEvent {
    pub kind: Kind,
    /// Id of the container, or of the sandbox itself.
    pub id: Arc<str>,
    /// The sandbox of the object. Held here even after its removal: kubelet drops an event without a sandbox.
    pub sandbox: Arc<Sandbox>,
}

impl ObjectEvent {
    /// Creates an event of the sandbox itself.
    #[must_use]
    pub fn of_sandbox(kind: Kind, sandbox: &Arc<Sandbox>) -> Self {
        Self { kind, id: sandbox.id().as_str().into(), sandbox: Arc::clone(sandbox) }
    }

    /// Whether it happened to the sandbox itself, and not to a container.
    #[must_use]
    pub fn is_of_sandbox(&self) -> bool {
        *self.id == *self.sandbox.id().as_str()
    }
}

/// Sends events to all subscribers.
#[derive(Debug)]
pub struct Fanout {
    sender: broadcast::Sender<ObjectEvent>,
    closing: CancellationToken,
    clock: Clock,
}

impl Default for Fanout {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Fanout {
    fn with_capacity(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity), closing: CancellationToken::new(), clock: Clock::default() }
    }

    /// Sends an event. `event` is not called if there is no subscriber.
    pub fn send(&self, event: impl FnOnce() -> Option<ObjectEvent>) {
        if self.sender.receiver_count() > 0
            && let Some(event) = event()
        {
            // Fails if the last subscriber has just left.
            let _ = self.sender.send(event);
        }
    }

    /// Subscribes to everything that is sent from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), closing: self.closing.clone() }
    }

    /// Returns the time for a status that is read after this call; see [`Clock`].
    pub fn stamp(&self, now: i64) -> i64 {
        self.clock.stamp(now)
    }

    /// Ends all subscriptions, so that a server that stops need not wait for them.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

/// What a subscriber receives.
#[derive(Debug)]
pub enum Next {
    /// The next event.
    Event(ObjectEvent),
    /// More happened than the ring buffer can hold. Its contents are skipped; the next event is a new one.
    Missed,
    /// Nothing will be sent any more.
    Closed,
}

/// A subscription to a [`Fanout`].
pub struct Subscription {
    receiver: broadcast::Receiver<ObjectEvent>,
    closing: CancellationToken,
}

impl Subscription {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Next {
        let received = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Next::Closed,
            received = self.receiver.recv() => received,
        };
        match received {
            Ok(event) => Next::Event(event),
            Err(RecvError::Closed) => Next::Closed,
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "a subscriber of events is slow");
                // The contents of the ring buffer are older than the store, from which the subscriber catches up.
                self.receiver = self.receiver.resubscribe();
                Next::Missed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::api::v1::PodSandboxConfig;
    use crate::ids::SandboxId;
    use crate::sandbox::{Record, State};

    fn event(id: &str) -> Option<ObjectEvent> {
        let record = Record {
            id: SandboxId::random(),
            config: PodSandboxConfig::default(),
            handler: String::new(),
            created_at: 0,
            selinux: None,
        };
        let sandbox = Arc::new(Sandbox::new(record, State::Broken, Vec::new()));
        Some(ObjectEvent { kind: Kind::Created, id: id.into(), sandbox })
    }

    fn next(subscription: &mut Subscription) -> Option<String> {
        match subscription.next().now_or_never()? {
            Next::Event(event) => Some(event.id.to_string()),
            Next::Missed => Some("missed".to_owned()),
            Next::Closed => Some("closed".to_owned()),
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_that_it_missed_events_and_goes_on_and_others_miss_none() {
        let fanout = Fanout::with_capacity(4);
        let (mut slow, mut quick) = (fanout.subscribe(), fanout.subscribe());
        for number in 0..9 {
            fanout.send(|| event(&number.to_string()));
            assert_eq!(next(&mut quick), Some(number.to_string()));
        }
        assert_eq!(next(&mut slow).as_deref(), Some("missed"));
        assert_eq!(next(&mut slow), None);
        fanout.send(|| event("new"));
        assert_eq!([&mut slow, &mut quick].map(next), [Some("new".to_owned()), Some("new".to_owned())]);
    }

    #[tokio::test]
    async fn no_event_is_built_without_a_subscriber_and_a_close_ends_all_subscriptions() {
        let fanout = Fanout::default();
        fanout.send(|| unreachable!("nobody listens"));
        drop(fanout.subscribe());
        fanout.send(|| unreachable!("nobody listens any more"));
        let mut subscription = fanout.subscribe();
        fanout.close();
        assert_eq!(next(&mut subscription).as_deref(), Some("closed"));
    }
}
