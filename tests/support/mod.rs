//! The real server as a child process, between a CRI client and a fake containerd.

pub mod cni;
pub mod containerd;
pub mod draw;
pub mod http2;
pub mod hung;
pub mod requests;
pub mod server;
pub mod streams;

use std::time::Duration;

/// The timeout for anything that has to happen eventually.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `is_so` holds. On a timeout, the panic message contains `what`.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
