//! Replaces `src/network/`: only the parsers of configurations and results.

#[path = "../../src/network/bandwidth.rs"]
mod bandwidth;
#[path = "../../src/network/config.rs"]
mod config;
#[path = "../../src/network/error.rs"]
mod error;
#[path = "../../src/network/result.rs"]
mod result;
#[path = "../../src/network/settings.rs"]
mod settings;

mod exec {
    /// A CNI operation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Operation {
        Add,
        Del,
        Check,
        Gc,
        Status,
    }

    impl std::fmt::Display for Operation {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }
}

mod state {
    #[derive(Clone, Debug, thiserror::Error)]
    #[error("not ready")]
    pub struct NotReady;
}

use std::collections::BTreeSet;

use config::NetworkConfig;
use result::Attached;
pub use result::IpPreference;
pub use settings::ConfigDir;

/// Parses a conflist, or the file of one plugin; the first byte chooses which. An accepted configuration is safe to run
/// and to cache.
///
/// # Panics
/// If a name could lead out of its directory, or the cached form is parsed as another configuration.
pub fn config(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let parsed = if kind & 1 == 0 { NetworkConfig::from_list(text) } else { NetworkConfig::from_plugin(text) };
    let Ok(network) = parsed else { return };
    assert!(!network.name.starts_with('.') && !network.name.contains(['/', '\0']) && !network.name.is_empty());
    for plugin in &network.plugins {
        assert!(!plugin.kind.contains(['/', '\0']) && !["", ".", ".."].contains(&plugin.kind.as_str()));
    }
    let cached = NetworkConfig::from_list(&network.bytes).expect("what is cached can be read");
    assert_eq!((&cached.name, &cached.cni_version), (&network.name, &network.cni_version));
    assert_eq!(cached.plugins.len(), network.plugins.len());
    for (one, other) in cached.plugins.iter().zip(&network.plugins) {
        assert_eq!((&one.raw, &one.capabilities), (&other.raw, &other.capabilities));
    }
}

/// Parses a plugin's result. The preference only changes which address comes first.
///
/// # Panics
/// If addresses are lost, or the preferred family is not first.
pub fn result(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let read = |preference| Attached::new(value.clone(), "eth0", preference).map(|attached| attached.ips);
    let preferences = [IpPreference::Cni, IpPreference::Ipv4, IpPreference::Ipv6];
    let [Ok(all), Ok(four), Ok(six)] = preferences.map(read) else {
        assert!(preferences.map(read).iter().all(Result::is_err), "a preference is no reason to refuse");
        return;
    };
    let set = |ips: &[std::net::IpAddr]| ips.iter().copied().collect::<BTreeSet<_>>();
    assert!(set(&all) == set(&four) && set(&all) == set(&six) && all.len() == four.len() && all.len() == six.len());
    assert_eq!(four.first().map(|ip| ip.is_ipv4()), (!all.is_empty()).then(|| all.iter().any(|ip| ip.is_ipv4())));
    assert_eq!(six.first().map(|ip| ip.is_ipv6()), (!all.is_empty()).then(|| all.iter().any(|ip| ip.is_ipv6())));
}
