//! What systemd is told (sd_notify(3)); nothing where there is no systemd.

use sd_notify::NotifyState;

/// CRI is served and everything is recovered.
pub(super) fn ready() {
    send(NotifyState::Ready);
}

/// SIGTERM was heard.
pub(super) fn stopping() {
    send(NotifyState::Stopping);
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd was not told");
    }
}
