//! Events in: containerd's event stream, which gives hints about exits and images, and the pulse, which checks that
//! containerd responds. The stream has no replay, so the listener lists the current state after each new subscription.
//!
//! Events out: changes of our own objects, sent to subscribers of CRI ([`Fanout`]).

mod clock;
mod fanout;
mod outages;
mod pulse;

pub use clock::Clock;
pub use fanout::{Fanout, Kind, Next, ObjectEvent, Subscription};
pub use pulse::Pulse;

use std::time::Duration;

use tokio::sync::watch;

use crate::containerd::{Containerd, Error, Event};
use outages::Outages;

/// Pause between two attempts to subscribe.
const RETRY: Duration = Duration::from_millis(500);

/// Receives containerd's events. A trait, because the module that implements it (`daemon`) is above this one.
pub trait Listener: Send + Sync + 'static {
    /// A subscription has begun. Events from before it are not delivered.
    fn connected(&self) -> impl Future<Output = ()> + Send;
    /// Called for each event, one at a time.
    fn event(&self, event: Event) -> impl Future<Output = ()> + Send;
}

/// Keeps subscribing for ever. `health` is true while a subscription lasts and containerd responds.
pub async fn pump(containerd: Containerd, health: watch::Sender<bool>, pulse: Pulse, listener: impl Listener) {
    let outages = Outages::new(health, containerd.address());
    loop {
        let error = follow(&containerd, &outages, &pulse, &listener).await;
        outages.begin(error.reason());
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens until the stream ends, and returns the reason.
async fn follow(containerd: &Containerd, outages: &Outages, pulse: &Pulse, listener: &impl Listener) -> Error {
    let mut events = match containerd.subscribe().await {
        Ok(events) => events,
        Err(error) => return error,
    };
    outages.end();
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
        never = pulse.follow(ask, outages) => match never {},
    }
}
