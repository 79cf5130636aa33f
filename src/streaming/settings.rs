//! The configuration of the streaming server.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Error, TlsFiles};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address to listen on; port 0 selects any free port. Without TLS it must be a loopback address.
    pub address: SocketAddr,
    /// Serves https if set.
    pub tls: Option<TlsFiles>,
    /// A session ends after carrying no data for this long.
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
    /// Checks that it is safe to serve with these settings.
    ///
    /// # Errors
    /// [`Error::NeedsTls`] without TLS on an address that is not loopback (cri-dockerd #106: others listened on every
    /// address).
    pub fn check(&self) -> Result<(), Error> {
        if self.address.ip().is_loopback() || self.tls.is_some() { Ok(()) } else { Err(Error::NeedsTls(self.address)) }
    }
}
