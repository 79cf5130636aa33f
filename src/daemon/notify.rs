//! Notifications to systemd (sd_notify(3)). Without systemd they do nothing.

use sd_notify::NotifyState;

/// Recovery is complete and CRI is served.
pub(super) fn ready() {
    send(NotifyState::Ready);
}

/// The daemon has begun to drain.
pub(super) fn stopping() {
    send(NotifyState::Stopping);
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
