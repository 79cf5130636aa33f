//! CNI networking of sandboxes, spec versions 0.3.1 to 1.1.0, compatible with libcni.
//!
//! Each operation of each plugin is one exec. The order of the chain, the injected `prevResult` and `runtimeConfig`,
//! and the cache files follow libcni, so that its other users on a node (Multus, `cnitool`) see what they expect.
//! `crate::runtime` attaches and detaches sandboxes and reads the network's readiness; `crate::daemon` starts the
//! network. This module never creates or removes a network namespace.
//!
//! ```text
//! conf_dir --watch--> Loaded --prepare--> cache without results --attach--> ADD a, b, c -> cache with results
//!                                         detach: cached config and result -> DEL c, b, a -> no cache
//! ```
//!
//! Detach uses the config that the sandbox was attached with: the config in the directory may have changed, become
//! invalid or been removed in the meantime.

mod attachment;
mod bandwidth;
mod cache;
mod chain;
mod config;
mod error;
mod exec;
mod health;
mod many_ports;
mod networks;
mod result;
mod running;
mod settings;
mod state;
mod template;
mod turns;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::ids::SandboxId;
use crate::joined::run_blocking;
use crate::tasks::Tasks;
use crate::telemetry::{Stage, during};

pub use attachment::{Attachment, Dns, PortMapping, check_ports};
pub use bandwidth::Bandwidth;
pub use cache::Cached;
pub use error::{Error, PluginFailure, TemplateError};
pub use exec::Operation;
pub use networks::Networks;
pub use result::{Attached, IpPreference};
pub use settings::{ConfigDir, Owner, Settings, Timeouts};
pub use state::NotReady;
pub use template::{InvalidCidr, IpCidr};

use attachment::NAMESPACE_ARG;
use cache::{Cache, Entry};
use chain::{Chain, RuntimeConf};
use config::NetworkConfig;
use exec::Plugins;
use running::Running;
use state::State;
use turns::Limits;

/// CNI with one set of settings. Clones share all state.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    plugins: Plugins,
    cache: Cache,
    state: State,
    limits: Arc<Limits>,
}

/// An attachment that is ready for ADD: its config and arguments are in the cache.
#[must_use]
pub struct Prepared {
    id: SandboxId,
    namespace: String,
    ports: usize,
    entries: Vec<Entry>,
}

/// The state of a sandbox's attachment, according to the cache.
#[derive(Debug, PartialEq)]
pub enum Recalled {
    /// Every ADD finished.
    Attached(Attached),
    /// At least one ADD did not finish: the process that ran it was killed.
    Unfinished,
    /// The cache has no usable result. [`Network::prepare`] wrote an entry before ADD, so it was lost later.
    Nothing,
}

impl Network {
    /// Loads the configs that are in the directory now, and follows changes in the background, within a second.
    #[must_use]
    pub fn start(settings: Settings, tasks: &Tasks) -> Self {
        let limits = Arc::new(Limits::new());
        let network = Self::follow(settings, limits, tasks);
        network.inner.cache.sweep();
        network
    }

    /// A network with another directory of configs on the same node. It shares the plugins, the cache and the turns,
    /// and has no template.
    #[must_use]
    pub fn with_config_dir(&self, configs: ConfigDir, tasks: &Tasks) -> Self {
        let settings = Settings { configs, conf_template: None, ..self.inner.settings.clone() };
        Self::follow(settings, Arc::clone(&self.inner.limits), tasks)
    }

    fn follow(settings: Settings, limits: Arc<Limits>, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            plugins: Plugins::new(settings.bin_dirs.clone(), Running::new(settings.state_dir.clone())),
            cache: Cache::new(&settings.cache_dir, settings.owner.clone()),
            state: State::load(&settings.configs),
            limits,
            settings,
        });
        // The background tasks hold the network weakly, so that they end with its last user.
        tasks.background(watch::follow(Arc::downgrade(&inner)));
        tasks.background(health::poll(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// The directory that this network's configs are loaded from.
    #[must_use]
    pub fn config_dir(&self) -> &ConfigDir {
        &self.inner.settings.configs
    }

    /// Whether sandboxes can be attached: a valid config is loaded, and for spec 1.1 the last STATUS of its plugins
    /// succeeded. Never waits.
    ///
    /// # Errors
    /// [`NotReady`] with the reason and message for CRI's condition NetworkReady.
    pub fn ready(&self) -> Result<(), NotReady> {
        self.inner.state.ready()
    }

    /// The loaded configs, in the form that containerd shows as `cniconfig`.
    #[must_use]
    pub fn config_json(&self) -> Value {
        state::config_json(&self.inner.settings, &self.inner.state.loaded())
    }

    /// Writes the config and the arguments of the coming ADD into the cache. The caller does this before any process of
    /// the sandbox runs: after a crash, the next daemon then knows whether ADD finished ([`Network::recall`]), and
    /// [`Network::detach`] works wherever ADD was interrupted.
    ///
    /// # Errors
    /// The config cannot be used, or the cache cannot be written. The caller must then detach.
    pub async fn prepare(&self, attachment: &Attachment) -> Result<Prepared, Error> {
        let networks = self.inner.state.loaded().map_err(Error::NotReady)?;
        let (args, capabilities) = (attachment.cni_args()?, attachment.capability_args()?);
        let entry = |(index, network)| {
            let (id, netns) = (attachment.id.to_string(), attachment.netns.clone());
            let (args, capabilities) = (args.clone(), capabilities.clone());
            let runtime = RuntimeConf { id, netns, interface: interface(index), args, capabilities };
            Entry { config: network, runtime, result: None }
        };
        let entries: Vec<_> = networks.into_iter().enumerate().map(entry).collect();
        for entry in &entries {
            self.inner.cache.write(entry, cache::Durability::Process).await?;
        }
        let ports = attachment.port_mappings.len();
        Ok(Prepared { id: attachment.id.clone(), namespace: attachment.namespace.clone(), ports, entries })
    }

    /// Runs ADD along the chain of each network, and caches the results. Dropping the future kills the running plugin.
    ///
    /// # Errors
    /// A plugin or the cache failed. The caller must then detach.
    pub async fn attach(&self, prepared: Prepared) -> Result<Attached, Error> {
        let Prepared { id, namespace, ports, entries } = prepared;
        let limits = &self.inner.limits;
        let adds = limits.adds.run(&id, &namespace, self.inner.add_all(entries));
        limits.many_ports.run(ports, &namespace, adds).await
    }

    /// Runs DEL along the chain, last plugin first, with the cached config and result, or with the loaded config when
    /// the cache has neither. Detaching a sandbox that was never attached succeeds. With neither a cache entry nor a
    /// config, it does nothing.
    ///
    /// # Errors
    /// A plugin or the cache failed. The cache entry stays for the next try.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let mut entries = self.inner.entries(&attachment.id).await?;
        if entries.is_empty() {
            entries = self.inner.uncached_entries(attachment);
        }
        during(Stage::Queue, self.inner.plugins.wait_for_interrupted(attachment.id.as_str())).await;
        for entry in &mut entries {
            // `None` when the network namespace is gone: the plugins then release only the resources outside of it.
            entry.runtime.netns.clone_from(&attachment.netns);
        }
        let namespace = namespace_of(attachment, &entries);
        let limits = &self.inner.limits;
        let dels = limits.dels.run(&attachment.id, &namespace, self.inner.del_all(entries));
        limits.many_ports.run(attachment.port_mappings.len(), &namespace, dels).await
    }

    /// Returns how far a sandbox's attachment got; an earlier daemon may have been killed in the middle of it.
    ///
    /// # Errors
    /// [`Error::Cache`] when the directory cannot be read.
    pub async fn recall(&self, id: &SandboxId) -> Result<Recalled, Error> {
        let entries = self.inner.entries(id).await?;
        if entries.iter().any(|entry| entry.result.is_none()) {
            return Ok(Recalled::Unfinished);
        }
        Ok(self.attached_by(entries).map_or(Recalled::Nothing, Recalled::Attached))
    }

    /// The addresses and result of a sandbox's attachment, from the cache. `None` when the cache has no result; the
    /// addresses can then still be read in the sandbox's network namespace and sorted with [`Network::in_order`].
    ///
    /// # Errors
    /// [`Error::Cache`] when the directory cannot be read.
    pub async fn attached(&self, id: &SandboxId) -> Result<Option<Attached>, Error> {
        Ok(self.attached_by(self.inner.entries(id).await?))
    }

    fn attached_by(&self, entries: Vec<Entry>) -> Option<Attached> {
        let first = entries.into_iter().find(|entry| entry.runtime.interface == interface(0))?;
        // A result that was valid at ADD is valid now; an invalid one is treated as lost.
        let attached = Attached::new(first.result?, &first.runtime.interface, self.inner.settings.ip_preference);
        attached.ok().filter(|attached| !attached.ips.is_empty())
    }

    /// The sandboxes that have cache files, attached completely or not. An attachment of this instance whose sandbox
    /// has neither a record nor a network namespace any more is stale and needs a [`Network::detach`].
    ///
    /// # Errors
    /// [`Error::Cache`] when the directory cannot be read.
    pub async fn cached(&self) -> Result<Cached, Error> {
        self.inner.cache.all().await
    }

    /// Sorts addresses so that the primary one, as the settings define it, comes first.
    #[must_use]
    pub fn in_order(&self, ips: Vec<std::net::IpAddr>) -> Vec<std::net::IpAddr> {
        self.inner.settings.ip_preference.sort(ips)
    }

    /// Has the plugins verify that a sandbox's attachment is still as its result says (CHECK, since spec 0.4.0; configs
    /// can disable it). Does nothing without a cached result. No verb of CRI needs this.
    ///
    /// # Errors
    /// The first failure that a plugin reports.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let deadline = Instant::now() + self.inner.settings.timeouts.check;
        for mut entry in self.inner.entries(&attachment.id).await? {
            let Some(result) = entry.result.take() else { continue };
            entry.runtime.netns.clone_from(&attachment.netns);
            let chain = self.inner.chain(&entry.config, deadline);
            chain.check(&entry.runtime, &result).await?;
        }
        Ok(())
    }

    /// Passes the list of valid attachments to the plugins, so that they free all others (GC, since spec 1.1.0).
    /// Nothing calls this automatically: on a network name that is shared with another runtime, it would free that
    /// runtime's attachments.
    ///
    /// # Errors
    /// The first plugin's failure; the other plugins are called all the same.
    pub async fn gc(&self, valid: &[SandboxId]) -> Result<(), Error> {
        let deadline = Instant::now() + self.inner.settings.timeouts.check;
        let networks = self.inner.state.loaded().map_err(Error::NotReady)?;
        let mut outcome = Ok(());
        for (index, network) in networks.iter().enumerate() {
            let name = interface(index);
            let valid: Vec<_> = valid.iter().map(|id| (id.as_str(), name.as_str())).collect();
            outcome = outcome.and(self.inner.chain(network, deadline).gc(&valid).await);
        }
        outcome
    }

    /// Writes `10-pontoon.conflist` from the template in the settings, for the CIDRs that kubelet was given for its
    /// pods. The watch on the directory then loads it. Returns `None` without a template, without CIDRs, and when
    /// another config is loaded.
    ///
    /// # Errors
    /// [`Error::Template`] when the template cannot be read, uses an unsupported action or gives no valid config, or
    /// when the file cannot be written.
    pub async fn write_from_template(&self, pod_cidrs: &[IpCidr]) -> Result<Option<PathBuf>, Error> {
        let Some(source) = self.inner.settings.conf_template.clone() else { return Ok(None) };
        let target = self.inner.settings.configs.path.join(template::FILE_NAME);
        let others = self.inner.state.loaded().is_ok_and(|networks| networks.iter().any(|n| n.source != target));
        if pod_cidrs.is_empty() || others {
            return Ok(None);
        }
        let cidrs = pod_cidrs.to_vec();
        run_blocking(move || template::write(&source, &target, &cidrs)).await
    }
}

impl Inner {
    /// Runs ADD for one network after the other, with one deadline for all. The first network's interface is the
    /// primary one.
    async fn add_all(&self, entries: Vec<Entry>) -> Result<Attached, Error> {
        let deadline = Instant::now() + self.settings.timeouts.add;
        let mut primary = None;
        for mut entry in entries {
            let result = self.chain(&entry.config, deadline).add(&entry.runtime).await?;
            entry.result = Some(result.clone());
            self.cache.write(&entry, cache::Durability::Disk).await?;
            primary.get_or_insert((entry.runtime.interface, result));
        }
        let none = || Error::NotReady(NotReady::no_config(&self.settings.configs));
        let (interface, result) = primary.ok_or_else(none)?;
        let attached = Attached::new(result, &interface, self.settings.ip_preference)?;
        if attached.ips.is_empty() { Err(Error::NoAddress { interface }) } else { Ok(attached) }
    }

    /// Runs DEL for each network, the last one first, with one deadline for all.
    async fn del_all(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.timeouts.del;
        let mut failed = None;
        for entry in entries.into_iter().rev() {
            // A failure on one network must not keep the addresses of the others allocated.
            if let Err(error) = self.del(&entry, deadline).await {
                if failed.is_some() {
                    // The error returned is the first one.
                    let (sandbox, network) = (entry.runtime.id, entry.config.name.clone());
                    tracing::warn!(%sandbox, network, ?error, "DEL failed on another network of the sandbox too");
                } else {
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn del(&self, entry: &Entry, until: Instant) -> Result<(), Error> {
        self.chain(&entry.config, until).del(&entry.runtime, entry.result.as_ref()).await?;
        self.cache.remove(entry).await
    }

    fn chain<'a>(&'a self, network: &'a NetworkConfig, deadline: Instant) -> Chain<'a> {
        Chain { plugins: &self.plugins, network, deadline, metrics: &self.settings.metrics }
    }

    async fn entries(&self, id: &SandboxId) -> Result<Vec<Entry>, Error> {
        let known = self.state.loaded().unwrap_or_default();
        let names = known.iter().enumerate().map(|(index, network)| (network.name.clone(), interface(index)));
        self.cache.find(id, names.collect()).await
    }

    /// The entries that would be in the cache if the sandbox had been attached with the loaded config.
    fn uncached_entries(&self, attachment: &Attachment) -> Vec<Entry> {
        let networks = self.state.loaded().unwrap_or_default();
        let entry = |(index, network)| Entry {
            config: network,
            runtime: RuntimeConf {
                id: attachment.id.to_string(),
                netns: attachment.netns.clone(),
                interface: interface(index),
                // `attach` refuses invalid values, so no plugin has ever seen them; DEL runs without them.
                args: attachment.cni_args().unwrap_or_default(),
                capabilities: attachment.capability_args().unwrap_or_else(|_| Map::new()),
            },
            result: None,
        };
        networks.into_iter().enumerate().map(entry).collect()
    }
}

/// The pod namespace whose turn a DEL takes. For a sandbox whose record is gone, only the cache knows it.
fn namespace_of(attachment: &Attachment, entries: &[Entry]) -> String {
    if !attachment.namespace.is_empty() {
        return attachment.namespace.clone();
    }
    let mut args = entries.iter().flat_map(|entry| &entry.runtime.args);
    args.find(|(key, _)| key == NAMESPACE_ARG).map(|(_, namespace)| namespace.clone()).unwrap_or_default()
}

/// The name of the interface on the network with this index, as go-cni names them.
fn interface(index: usize) -> String {
    format!("eth{index}")
}

#[cfg(test)]
mod tests;
