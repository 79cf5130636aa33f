//! The networks of a node: the default one, and those of runtime handlers that have a config directory of their own.

use std::collections::BTreeMap;

use super::{ConfigDir, Network, Settings};
use crate::tasks::Tasks;

/// Maps runtime handlers to networks. Clones share all state.
#[derive(Clone)]
pub struct Networks {
    default: Network,
    /// The networks of handlers that have a directory of their own, by handler name.
    own: BTreeMap<String, Network>,
}

impl Networks {
    /// Loads and follows each directory once, however many handlers name it. All networks share the node's plugins,
    /// cache and limit of concurrently running plugins.
    #[must_use]
    pub fn start(settings: Settings, own: BTreeMap<String, ConfigDir>, tasks: &Tasks) -> Self {
        let default = Network::start(settings, tasks);
        let mut started = BTreeMap::from([(default.config_dir().clone(), default.clone())]);
        let own = own.into_iter().map(|(handler, dir)| {
            let network = started.entry(dir.clone()).or_insert_with(|| default.with_config_dir(dir, tasks));
            (handler, network.clone())
        });
        Self { own: own.collect(), default }
    }

    /// The network of a handler's pods. It is the default network for a handler without a directory of its own, and for
    /// one that the configuration no longer has.
    #[must_use]
    pub fn of(&self, handler: &str) -> &Network {
        self.own.get(handler).unwrap_or(&self.default)
    }

    /// The network of pods whose handler has no directory of its own. NetworkReady is about this one.
    #[must_use]
    pub fn default_network(&self) -> &Network {
        &self.default
    }

    /// The handlers that have a directory of their own, with their networks.
    pub fn own(&self) -> impl Iterator<Item = (&str, &Network)> {
        self.own.iter().map(|(handler, network)| (handler.as_str(), network))
    }
}
