//! `[streaming]`: where exec, attach and port-forward are served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use super::{Error, check};
use crate::streaming::{Settings, TlsFiles};

/// `[streaming]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is documented in examples/config.toml and on streaming::Settings")]
pub struct Streaming {
    pub address: IpAddr,
    pub port: u16,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub idle_timeout: String,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            tls_cert_file: None,
            tls_key_file: None,
            idle_timeout: "4h".to_owned(),
        }
    }
}

impl Streaming {
    pub(super) fn resolve(self) -> Result<Settings, Error> {
        let tls = match (self.tls_cert_file, self.tls_key_file) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("tls_key_file", "tls_cert_file needs it".to_owned())),
            (None, Some(_)) => return Err(wrong("tls_cert_file", "tls_key_file needs it".to_owned())),
        };
        let settings = Settings {
            address: SocketAddr::new(self.address, self.port),
            tls,
            idle_timeout: duration("idle_timeout", &self.idle_timeout)?,
        };
        settings.check().map_err(|error| wrong("address", error.to_string()))?;
        Ok(settings)
    }
}

fn duration(key: &str, text: &str) -> Result<Duration, Error> {
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| wrong(key, format!("{text:?} is not a duration such as \"30s\" or \"4h\"")))
}

fn wrong(key: &str, problem: String) -> Error {
    check::wrong(format!("streaming.{key}"), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Settings, String> {
        toml::from_str::<Streaming>(text).unwrap().resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn loopback_and_a_free_port_by_default() {
        assert_eq!(resolve("").unwrap(), Settings::default());
    }

    #[test]
    fn cri_dockerd_106_another_address_needs_tls() {
        for address in ["0.0.0.0", "::", "10.0.0.1"] {
            let error = resolve(&format!("address = {address:?}")).unwrap_err();
            assert!(error.contains("streaming.address") && error.contains("tls_cert_file"), "{error}");
            let tls = "tls_cert_file = \"/c\"\ntls_key_file = \"/k\"";
            assert!(resolve(&format!("address = {address:?}\n{tls}")).is_ok());
        }
        assert!(resolve("address = \"::1\"").is_ok());
        assert!(resolve("address = \"127.0.0.2\"\nport = 10010").is_ok());
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(resolve("tls_cert_file = \"/c\"").unwrap_err().contains("streaming.tls_key_file"));
        assert!(resolve("tls_key_file = \"/k\"").unwrap_err().contains("streaming.tls_cert_file"));
    }

    #[test]
    fn durations_are_words() {
        let settings = resolve("idle_timeout = \"1h 30m\"").unwrap();
        assert_eq!(settings.idle_timeout, Duration::from_secs(5400));
        for wrong in ["0s", "-1s", "soon", "30"] {
            assert!(
                resolve(&format!("idle_timeout = {wrong:?}")).unwrap_err().contains("streaming.idle_timeout"),
                "{wrong}"
            );
        }
    }
}
