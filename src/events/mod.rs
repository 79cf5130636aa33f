//! containerd's event stream: a hint about exits and images, and the pulse that says whether
//! containerd is there. It has no replay, so after each new subscription the truth is listed.

use std::time::Duration;

use tokio::sync::watch;

use crate::containerd::{Containerd, Event};

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_millis(500);

/// Who hears of events.
pub trait Listener: Send + Sync + 'static {
    /// A subscription has begun; what happened before it is not told.
    fn connected(&self) -> impl Future<Output = ()> + Send;
    /// One event.
    fn event(&self, event: Event) -> impl Future<Output = ()> + Send;
}

/// Subscribes for ever. `health` is true while a subscription lasts.
pub async fn pump(containerd: Containerd, health: watch::Sender<bool>, listener: impl Listener) {
    loop {
        match containerd.subscribe().await {
            Ok(mut events) => {
                health.send_replace(true);
                listener.connected().await;
                let error = loop {
                    match events.next().await {
                        Ok(event) => listener.event(event).await,
                        Err(error) => break error,
                    }
                };
                health.send_replace(false);
                tracing::warn!(%error, "containerd is away");
            }
            Err(error) => tracing::debug!(%error, "containerd cannot be subscribed to yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
