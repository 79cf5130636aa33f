//! The network of sandboxes: CNI, spec 0.3.1 to 1.1.0, as libcni does it.
//!
//! Plugins are run one exec per plugin and verb; their chain, the injected `prevResult` and
//! `runtimeConfig`, and the cache files are libcni's, so that its other users on a node
//! (Multus, `cnitool`) see what they expect. Who calls: `crate::runtime` attaches and
//! detaches, `crate::cri` asks for the conditions, `crate::daemon` starts it. This room never
//! makes or removes a namespace.
//!
//! ```text
//! conf_dir --watch--> Loaded --prepare--> cache without results --attach--> ADD a, b, c -> cache with results
//!                                         detach: cached config and result -> DEL c, b, a -> no cache
//! ```
//!
//! What a pod's attachment was made with is what takes it down: the config in the directory
//! may be another, invalid or gone by then.

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
use crate::tasks::Tasks;
use crate::telemetry::{Stage, during};

pub use attachment::{Attachment, Dns, PortMapping, check_ports};
pub use bandwidth::Bandwidth;
pub use cache::Cached;
pub use error::{Error, PluginFailure, TemplateError};
pub use exec::Verb;
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
use turns::Both;

/// CNI with one set of settings. Clones share everything.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    plugins: Plugins,
    cache: Cache,
    state: State,
    turns: Arc<Both>,
}

/// An attachment whose ADD may begin: what it is made with is in the cache.
#[must_use]
pub struct Prepared {
    id: SandboxId,
    namespace: String,
    ports: usize,
    entries: Vec<Entry>,
}

/// What the cache has of a sandbox's attachment.
#[derive(Debug, PartialEq)]
pub enum Recalled {
    /// Every ADD came to its end.
    Attached(Attached),
    /// One did not: the process that ran it was killed.
    Unfinished,
    /// Nothing. It was there before ADD, so it was lost later.
    Nothing,
}

impl Network {
    /// Loads what is in the directory now, and from then on follows it in the background
    /// within a second.
    #[must_use]
    pub fn start(settings: Settings, tasks: &Tasks) -> Self {
        let turns = Arc::new(Both::new());
        let network = Self::follow(settings, turns, tasks);
        network.inner.cache.sweep();
        network
    }

    /// Another directory of configs on the same node: with the same plugins, cache and turns, and without a template.
    #[must_use]
    pub fn beside(&self, configs: ConfigDir, tasks: &Tasks) -> Self {
        let settings = Settings { configs, conf_template: None, ..self.inner.settings.clone() };
        Self::follow(settings, Arc::clone(&self.inner.turns), tasks)
    }

    fn follow(settings: Settings, turns: Arc<Both>, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            plugins: Plugins::new(settings.bin_dirs.clone(), Running::new(settings.state_dir.clone())),
            cache: Cache::new(&settings.cache_dir, settings.owner.clone()),
            state: State::load(&settings.configs),
            turns,
            settings,
        });
        // The tasks hold the network weakly, so that they end with its last user.
        tasks.background(watch::follow(Arc::downgrade(&inner)));
        tasks.background(health::poll(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Where its configs are.
    #[must_use]
    pub fn config_dir(&self) -> &ConfigDir {
        &self.inner.settings.configs
    }

    /// Whether sandboxes can be attached: a valid config is loaded, and for spec 1.1 its
    /// plugins' last STATUS was good. Never waits.
    ///
    /// # Errors
    /// [`NotReady`] with the reason and message for CRI's condition NetworkReady.
    pub fn ready(&self) -> Result<(), NotReady> {
        self.inner.state.ready()
    }

    /// What is loaded, in the form that containerd shows as `cniconfig`.
    #[must_use]
    pub fn config_json(&self) -> Value {
        state::config_json(&self.inner.settings, &self.inner.state.loaded())
    }

    /// Writes into the cache what ADD will be made with. Before anything of the sandbox runs: whoever
    /// finds it after a crash then knows whether its ADD came to its end ([`Network::recall`]), and
    /// [`Network::detach`] works wherever that ends.
    ///
    /// # Errors
    /// Whatever is wrong with the config, or the cache failed with. The caller must then detach.
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

    /// Runs ADD along the chain of each network, and caches the results. Dropping the future kills
    /// the running plugin.
    ///
    /// # Errors
    /// Whatever a plugin or the cache failed with. The caller must then detach.
    pub async fn attach(&self, prepared: Prepared) -> Result<Attached, Error> {
        let Prepared { id, namespace, ports, entries } = prepared;
        let turns = &self.inner.turns;
        let adds = turns.adds.run(&id, &namespace, self.inner.add_all(entries));
        turns.many_ports.run(ports, &namespace, adds).await
    }

    /// Runs DEL along the chain, last plugin first, with the cached config and result, or with
    /// the loaded config when there are none. A sandbox that was never attached is fine, and
    /// with neither cache nor config there is nothing to do.
    ///
    /// # Errors
    /// Whatever a plugin failed with; the cache stays for the next try.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let mut entries = self.inner.entries(&attachment.id).await?;
        if entries.is_empty() {
            entries = self.inner.uncached_entries(attachment);
        }
        during(Stage::Queue, self.inner.plugins.settled(attachment.id.as_str())).await;
        for entry in &mut entries {
            // Empty where the namespace is gone: the plugins then give back what is not in it.
            entry.runtime.netns.clone_from(&attachment.netns);
        }
        let namespace = namespace_of(attachment, &entries);
        let turns = &self.inner.turns;
        let dels = turns.dels.run(&attachment.id, &namespace, self.inner.del_all(entries));
        turns.many_ports.run(attachment.port_mappings.len(), &namespace, dels).await
    }

    /// What became of a sandbox's attachment, of which a process before this one may have been killed in the middle.
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

    /// What a sandbox was attached with, from the cache. `None` when there is no result there;
    /// the addresses can still be read in its namespace ([`Network::in_order`]).
    ///
    /// # Errors
    /// [`Error::Cache`] when the directory cannot be read.
    pub async fn attached(&self, id: &SandboxId) -> Result<Option<Attached>, Error> {
        Ok(self.attached_by(self.inner.entries(id).await?))
    }

    fn attached_by(&self, entries: Vec<Entry>) -> Option<Attached> {
        let first = entries.into_iter().find(|entry| entry.runtime.interface == interface(0))?;
        // A result that was good at ADD is good now; one that is not is as good as lost.
        let attached = Attached::new(first.result?, &first.runtime.interface, self.inner.settings.ip_preference);
        attached.ok().filter(|attached| !attached.ips.is_empty())
    }

    /// The sandboxes that have cache files, attached or half-way. One of ours that has neither a record nor its network
    /// namespace any more is stale and wants a [`Network::detach`].
    ///
    /// # Errors
    /// [`Error::Cache`] when the directory cannot be read.
    pub async fn cached(&self) -> Result<Cached, Error> {
        self.inner.cache.all().await
    }

    /// Addresses with the primary one first, as the settings want it.
    #[must_use]
    pub fn in_order(&self, ips: Vec<std::net::IpAddr>) -> Vec<std::net::IpAddr> {
        self.inner.settings.ip_preference.sort(ips)
    }

    /// Asks the plugins whether a sandbox's attachment is still as its result says (CHECK,
    /// since spec 0.4.0; configs can switch it off). Without a cached result it asks nothing.
    ///
    /// # Errors
    /// Whatever a plugin found.
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

    /// Tells the plugins which attachments are valid, so that they free all others (GC, since
    /// spec 1.1.0). Off by default and never called by itself: on a network name that is shared
    /// it takes the attachments of another runtime.
    ///
    /// # Errors
    /// The first plugin's failure; the others are asked all the same.
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

    /// Writes `10-pontoon.conflist` from the template in the settings, for the CIDRs that
    /// kubelet was given for its pods. `None` without a template, without CIDRs, and when
    /// somebody else's config is loaded. The directory's watch then loads it.
    ///
    /// # Errors
    /// [`Error::Template`] when the template cannot be read, uses what is not supported or
    /// gives no valid config, or when the file cannot be written.
    pub async fn write_from_template(&self, pod_cidrs: &[IpCidr]) -> Result<Option<PathBuf>, Error> {
        let Some(source) = self.inner.settings.conf_template.clone() else { return Ok(None) };
        let target = self.inner.settings.configs.path.join(template::FILE_NAME);
        let others = self.inner.state.loaded().is_ok_and(|networks| networks.iter().any(|n| n.source != target));
        if pod_cidrs.is_empty() || others {
            return Ok(None);
        }
        let cidrs = pod_cidrs.to_vec();
        blocking(move || template::write(&source, &target, &cidrs)).await
    }
}

impl Inner {
    /// ADDs one after the other, with one deadline; the first network's interface is the primary one.
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

    /// DELs, the last network first, with one deadline.
    async fn del_all(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.timeouts.del;
        let mut failed = None;
        for entry in entries.into_iter().rev() {
            // One network's failure must not keep the others' addresses.
            if let Err(error) = self.del(&entry, deadline).await {
                failed.get_or_insert(error);
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

    /// What would have been cached had the sandbox been attached with the loaded config.
    fn uncached_entries(&self, attachment: &Attachment) -> Vec<Entry> {
        let networks = self.state.loaded().unwrap_or_default();
        let entry = |(index, network)| Entry {
            config: network,
            runtime: RuntimeConf {
                id: attachment.id.to_string(),
                netns: attachment.netns.clone(),
                interface: interface(index),
                // What attach refuses was never given to a plugin; DEL goes without it.
                args: attachment.cni_args().unwrap_or_default(),
                capabilities: attachment.capability_args().unwrap_or_else(|_| Map::new()),
            },
            result: None,
        };
        networks.into_iter().enumerate().map(entry).collect()
    }
}

/// Whose turn a DEL takes. Of a sandbox whose record is gone only the cache knows the namespace.
fn namespace_of(attachment: &Attachment, entries: &[Entry]) -> String {
    if !attachment.namespace.is_empty() {
        return attachment.namespace.clone();
    }
    let mut args = entries.iter().flat_map(|entry| &entry.runtime.args);
    args.find(|(key, _)| key == NAMESPACE_ARG).map(|(_, namespace)| namespace.clone()).unwrap_or_default()
}

/// The interface for the network with this number, as go-cni names them.
fn interface(index: usize) -> String {
    format!("eth{index}")
}

/// File work off the runtime's threads.
async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => Err(Error::Stopped(stopped.to_string())),
    }
}

#[cfg(test)]
mod tests;
