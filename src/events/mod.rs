//! Events in: containerd's stream, a hint about exits and images, and the pulse that says whether containerd is there. It
//! has no replay, so after each new subscription the truth is listed.
//!
//! Events out: what our own objects' states say, told to subscribers of CRI ([`Fanout`]).

mod clock;
mod fanout;
mod pulse;

pub use clock::Clock;
pub use fanout::{Fanout, Happening, Kind, Next, Subscription};
pub use pulse::Pulse;

use std::time::Duration;

use tokio::sync::watch;

use crate::containerd::{Containerd, Error, Event};

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_millis(500);

/// Who hears of events.
pub trait Listener: Send + Sync + 'static {
    /// A subscription has begun; what happened before it is not told.
    fn connected(&self) -> impl Future<Output = ()> + Send;
    /// One event.
    fn event(&self, event: Event) -> impl Future<Output = ()> + Send;
}

/// Subscribes for ever. `health` is true while a subscription lasts and containerd answers.
pub async fn pump(containerd: Containerd, health: watch::Sender<bool>, pulse: Pulse, listener: impl Listener) {
    let mut told = String::new();
    loop {
        let error = follow(&containerd, &health, &pulse, &listener).await.to_string();
        health.send_replace(false);
        // A lasting trouble is told once, not twice a second.
        if error != told {
            tracing::warn!(error, "containerd is away");
        }
        told = error;
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens until the stream ends, and says why it did.
async fn follow(
    containerd: &Containerd,
    health: &watch::Sender<bool>,
    pulse: &Pulse,
    listener: &impl Listener,
) -> Error {
    let mut events = match containerd.subscribe().await {
        Ok(events) => events,
        Err(error) => return error,
    };
    health.send_replace(true);
    let listening = async {
        listener.connected().await;
        loop {
            match events.next().await {
                Ok(event) => listener.event(event).await,
                Err(error) => return error,
            }
        }
    };
    let ask = || async { containerd.version().await.map(drop) };
    tokio::select! {
        error = listening => error,
        never = pulse.follow(ask, health) => match never {},
    }
}
