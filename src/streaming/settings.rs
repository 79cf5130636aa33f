//! Where streams are served, as the configuration says it.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Error, TlsFiles};

/// How streams are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where; port 0 is any that is free. Without TLS it must be a loopback address.
    pub address: SocketAddr,
    /// Serves https.
    pub tls: Option<TlsFiles>,
    /// Ends a session in which nothing was carried for so long.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
        }
    }
}

impl Settings {
    /// Whether they are safe to serve with.
    ///
    /// # Errors
    /// [`Error::Unguarded`] (cri-dockerd #106: others listened on every address).
    pub fn check(&self) -> Result<(), Error> {
        if self.address.ip().is_loopback() || self.tls.is_some() { Ok(()) } else { Err(Error::Unguarded(self.address)) }
    }
}
