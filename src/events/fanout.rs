//! What becomes of sandboxes and containers, told to any number of subscribers (GetContainerEvents).
//!
//! Whoever tells never waits: a subscriber has room for a number of happenings, and one that is slower than that is told
//! that it has missed some, from where it can catch up with what the store says. Only what happened to whom is kept for
//! him; how things stand is looked up when he takes it, so that a slow subscriber costs neither memory nor time.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::Clock;
use crate::sandbox::Sandbox;

/// Happenings that wait for a subscriber. With 250 pods of four containers all may end at once.
const ROOM: usize = 1024;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is listed.
    Created,
    /// Its process runs.
    Started,
    /// Its process has ended, or could not be started.
    Stopped,
    /// It is not listed any more.
    Deleted,
}

/// What became of whom.
#[derive(Clone, Debug)]
pub struct Happening {
    /// What.
    pub kind: Kind,
    /// Id of the container, or of the sandbox itself.
    pub id: Arc<str>,
    /// The sandbox it is in, kept beyond its removal: kubelet drops an event without it.
    pub sandbox: Arc<Sandbox>,
}

impl Happening {
    /// Of a sandbox itself.
    #[must_use]
    pub fn of_sandbox(kind: Kind, sandbox: &Arc<Sandbox>) -> Self {
        Self { kind, id: sandbox.id().as_str().into(), sandbox: Arc::clone(sandbox) }
    }

    /// Whether it is of a sandbox itself.
    #[must_use]
    pub fn is_of_sandbox(&self) -> bool {
        *self.id == *self.sandbox.id().as_str()
    }
}

/// Tells all subscribers.
#[derive(Debug)]
pub struct Fanout {
    sender: broadcast::Sender<Happening>,
    closing: CancellationToken,
    clock: Clock,
}

impl Default for Fanout {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Fanout {
    fn with_room(room: usize) -> Self {
        Self { sender: broadcast::Sender::new(room), closing: CancellationToken::new(), clock: Clock::default() }
    }

    /// Tells of a happening, which is not even made when nobody listens.
    pub fn tell(&self, happening: impl FnOnce() -> Option<Happening>) {
        if self.sender.receiver_count() > 0
            && let Some(happening) = happening()
        {
            // Fails when the last subscriber has just left.
            let _ = self.sender.send(happening);
        }
    }

    /// Subscribes to all that is told from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), closing: self.closing.clone() }
    }

    /// The time of a status that is looked at next; see [`Clock`].
    pub fn stamp(&self, now: i64) -> i64 {
        self.clock.stamp(now)
    }

    /// Ends all subscriptions, so that a server that stops need not wait for them.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

/// What a subscriber finds.
#[derive(Debug)]
pub enum Next {
    /// The next happening.
    Happened(Happening),
    /// More happened than there was room for. All that was kept is dropped; the next one is new.
    Missed,
    /// Nothing will be told any more.
    Closed,
}

/// A place in the audience.
pub struct Subscription {
    receiver: broadcast::Receiver<Happening>,
    closing: CancellationToken,
}

impl Subscription {
    /// Waits for the next happening.
    pub async fn next(&mut self) -> Next {
        let received = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Next::Closed,
            received = self.receiver.recv() => received,
        };
        match received {
            Ok(happening) => Next::Happened(happening),
            Err(RecvError::Closed) => Next::Closed,
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "a subscriber of events is slow");
                // What is kept is older than the store, from where he catches up.
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

    fn happening(id: &str) -> Option<Happening> {
        let record = Record {
            id: SandboxId::random(),
            config: PodSandboxConfig::default(),
            handler: String::new(),
            created_at: 0,
            selinux: None,
        };
        let sandbox = Arc::new(Sandbox::new(record, State::Dead, Vec::new()));
        Some(Happening { kind: Kind::Created, id: id.into(), sandbox })
    }

    fn next(subscription: &mut Subscription) -> Option<String> {
        match subscription.next().now_or_never()? {
            Next::Happened(happening) => Some(happening.id.to_string()),
            Next::Missed => Some("missed".to_owned()),
            Next::Closed => Some("closed".to_owned()),
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_that_it_missed_some_and_goes_on_and_others_miss_none() {
        let fanout = Fanout::with_room(4);
        let (mut slow, mut quick) = (fanout.subscribe(), fanout.subscribe());
        for number in 0..9 {
            fanout.tell(|| happening(&number.to_string()));
            assert_eq!(next(&mut quick), Some(number.to_string()));
        }
        assert_eq!(next(&mut slow).as_deref(), Some("missed"));
        assert_eq!(next(&mut slow), None);
        fanout.tell(|| happening("new"));
        assert_eq!([&mut slow, &mut quick].map(next), [Some("new".to_owned()), Some("new".to_owned())]);
    }

    #[tokio::test]
    async fn nothing_is_made_for_nobody_and_all_are_let_go_at_the_end() {
        let fanout = Fanout::default();
        fanout.tell(|| unreachable!("nobody listens"));
        drop(fanout.subscribe());
        fanout.tell(|| unreachable!("nobody listens any more"));
        let mut subscription = fanout.subscribe();
        fanout.close();
        assert_eq!(next(&mut subscription).as_deref(), Some("closed"));
    }
}
