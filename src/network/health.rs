//! Runs STATUS on the plugins of spec 1.1 networks in the background, so that CRI's Status, which kubelet calls every
//! few seconds, never runs a plugin.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Inner;
use super::config::{NetworkConfig, Version};
use super::error::Error;
use super::state::NotReady;

/// Pause after a successful STATUS, and the longest pause after failures. Each STATUS costs an exec per plugin.
const PAUSE: Duration = Duration::from_secs(30);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Polls until the last user of the network is gone.
pub(super) async fn poll(network: Weak<Inner>) {
    let Some(mut changes) = network.upgrade().map(|network| network.state.changes()) else { return };
    let mut failures = 0;
    let mut was_healthy = false;
    loop {
        let loaded = changes.borrow_and_update().clone();
        let polled: Vec<_> = loaded.unwrap_or_default().into_iter().filter(|network| has_status(network)).collect();
        let Some(inner) = network.upgrade() else { return };
        let outcome = status(&inner, &polled).await;
        match outcome {
            Ok(()) => {
                (failures, was_healthy) = (0, true);
                inner.state.set_status(None);
            }
            Err(error) => {
                failures += 1;
                // A single failure of a plugin that was healthy does not make the node NotReady.
                if failures > 1 || !was_healthy {
                    tracing::warn!(%error, failures, "cni STATUS failed");
                    inner.state.set_status(Some(NotReady::new(format!("cni status: {error}"))));
                }
            }
        }
        drop(inner);
        let pause = if polled.is_empty() { Duration::MAX } else { pause(failures) };
        tokio::select! {
            // The networks have changed: the earlier results say nothing about the new ones.
            changed = changes.changed() => match changed {
                Ok(()) => (failures, was_healthy) = (0, false),
                Err(_) => return,
            },
            () = sleep(pause) => {}
        }
    }
}

async fn status(inner: &Inner, networks: &[Arc<NetworkConfig>]) -> Result<(), Error> {
    for network in networks {
        inner.chain(network, Instant::now() + inner.settings.timeouts.status).status().await?;
    }
    Ok(())
}

fn has_status(network: &NetworkConfig) -> bool {
    network.version >= Version(1, 1, 0)
}

fn pause(failures: u32) -> Duration {
    match failures {
        0 => PAUSE,
        _ => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(8)).min(PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sick_plugin_is_asked_soon_and_then_ever_less_often() {
        let seconds: Vec<u64> = (0..8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [30, 1, 2, 4, 8, 16, 30, 30]);
    }
}
