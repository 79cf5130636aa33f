//! The networks of a node: that of most pods, and those that runtime handlers have in directories of their own.

use std::collections::BTreeMap;

use super::{ConfigDir, Network, Settings};
use crate::tasks::Tasks;

/// Which pods get which network. Clones share everything.
#[derive(Clone)]
pub struct Networks {
    default: Network,
    /// Of the handlers that have a directory of their own, by their names.
    own: BTreeMap<String, Network>,
}

impl Networks {
    /// Loads and follows each directory once, however many handlers name it. Plugins, cache and the limit of how many run
    /// at once are the node's.
    #[must_use]
    pub fn start(settings: Settings, own: BTreeMap<String, ConfigDir>, tasks: &Tasks) -> Self {
        let default = Network::start(settings, tasks);
        let mut started = BTreeMap::from([(default.config_dir().clone(), default.clone())]);
        let own = own.into_iter().map(|(handler, dir)| {
            let network = started.entry(dir.clone()).or_insert_with(|| default.beside(dir, tasks));
            (handler, network.clone())
        });
        Self { own: own.collect(), default }
    }

    /// The network of a handler's pods: the default one for those without a directory, and for a handler that the
    /// configuration does not have any more.
    #[must_use]
    pub fn of(&self, handler: &str) -> &Network {
        self.own.get(handler).unwrap_or(&self.default)
    }

    /// The network of the pods whose handler has none: NetworkReady is about this one.
    #[must_use]
    pub fn default_network(&self) -> &Network {
        &self.default
    }

    /// The handlers that have a directory of their own, by their names.
    pub fn own(&self) -> impl Iterator<Item = (&str, &Network)> {
        self.own.iter().map(|(handler, network)| (handler.as_str(), network))
    }
}
