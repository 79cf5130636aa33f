//! Builds a node from a configuration: directories, containerd, network, images, event pump.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};

use super::{checks, host, instance, not_there_yet};
use crate::cgroup::Counted;
use crate::config::{Config, Handler};
use crate::container::io::{Counters, Fifo};
use crate::container::relabel;
use crate::containerd::{Containerd, Event, Plugin, Server};
use crate::events::{self, Fanout, Listener, Pulse};
use crate::images::{self, Images, Pace};
use crate::lsm::apparmor::Profiles;
use crate::lsm::selinux::Levels;
use crate::network::{self, ConfigDir, Networks};
use crate::runtime::{self, Availability, Features, Host, InFlight, Limits, Node, chain};
use crate::sandbox::pause;
use crate::spec;
use crate::stats::{Layers, Stats};
use crate::store::Store;
use crate::task::Owner;
use crate::tasks::Tasks;
use crate::telemetry::{Logs, Metrics, Sources};

/// The length of the queue of image events. When it overflows, all images are listed instead.
const IMAGE_EVENTS: usize = 256;

/// Builds a node with an empty store.
pub(super) async fn node(config: Config, tasks: Tasks) -> anyhow::Result<Arc<Node>> {
    let metrics = tasks.operations().metrics().clone();
    // Before anything is changed, because this may refuse the configuration.
    let image_settings = image_settings(&config, &metrics)?;
    // The root has mode 0700, so that users of the node cannot run set-uid files in volumes (CVE-2021-41103).
    private_directory(&config.root, 0o700)?;
    private_directory(&config.state, 0o711)?;
    let pause_root = pause::install(&config.root).context("install the pause root")?;
    let containerd = Containerd::new(&config.containerd.address, &config.containerd.namespace)?.measured(&metrics);
    let version = checks::wait_for(&containerd, &config.containerd.address).await?;
    // Before anything in containerd is changed. Before containerd answers, its socket may not be there yet.
    instance::lock(&config.containerd).await?;
    let plugins = checks::plugins(&containerd, &version).await?;
    checks::foreign_pods(&containerd, config.allow_foreign_pods).await?;
    let server = containerd.server().await.context("query containerd's server info")?;
    tracing::info!(version, pid = server.pid, "connected to containerd");
    not_there_yet::warn(&config, &plugins, server.pid, &tasks);

    let host = host_facts(&server, &config, &pause_root).await;
    let networks = Networks::start(network_settings(&config, &metrics), own_networks(&config), &tasks);
    let features = features(&containerd, &config, &plugins).await;
    let ((health, is_healthy), pulse) = (watch::channel(false), Pulse::default());
    let layers = Layers::new(containerd.clone(), tasks.clone());
    let images = Images::start(containerd.clone(), layers.clone(), image_settings, tasks.clone(), is_healthy.clone());
    let streams = Fifo::new(tasks.clone());
    metrics.read(sources(&tasks, &images, streams.counters()));
    let owner = Owner {
        containerd: containerd.clone(),
        health: is_healthy.clone(),
        hints: Arc::default(),
        tasks: tasks.clone(),
    };
    let node = Arc::new(Node {
        availability: Availability::new(is_healthy, pulse.clone(), config.containerd.address.clone()),
        images,
        networks,
        streams,
        levels: Levels::new(config.selinux.category_range),
        limits: Limits::new(&config.limits),
        store: Store::default(),
        stats: Stats::new(host.cgroup_v2, layers, tasks.clone()),
        owner,
        events: Fanout::default(),
        in_flight: InFlight::new(&tasks),
        host: Host {
            facts: host,
            counted: Counted::by_this_host(),
            boot: boot_id()?,
            pause_root,
            features,
            apparmor: Profiles::new(server.pid),
        },
        containerd: containerd.clone(),
        tasks: tasks.clone(),
        config,
    });
    // Before anything is served, because the first call may already create a container.
    refresh(&node).await;
    if let Err(error) = node.images.end_old_leases().await {
        tracing::warn!(%error, "leases of an earlier process could not be deleted; they expire by themselves");
    }
    let listener = NodeListener::new(Arc::clone(&node), &tasks);
    tasks.background(events::pump(containerd, health, pulse, listener));
    Ok(node)
}

/// Reads the facts of this host, and labels the pause root as they require it.
async fn host_facts(server: &Server, config: &Config, pause_root: &Path) -> spec::Host {
    let host = host::facts(server, config);
    label_pause_root(&host, pause_root).await;
    tracing::info!(apparmor = host.apparmor, selinux = host.selinux.is_some(), "security modules in use");
    host
}

/// Labels the pause root for SELinux. All pods share it, so its label has no pod's level.
async fn label_pause_root(host: &spec::Host, pause_root: &Path) {
    let Some(contexts) = &host.selinux else { return };
    let label = contexts.read_only_file.to_string();
    if let Err(error) = relabel::trees(vec![pause_root.to_owned()], label).await {
        // With a permissive policy, pods run all the same.
        tracing::error!(
            error = chain(&error),
            "the pause root cannot be labelled: an enforcing policy stops every pod"
        );
    }
}

fn boot_id() -> anyhow::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(id.trim().to_owned())
}

/// Passes events on. A separate task reads images, so that a slow read does not delay an exit.
struct NodeListener {
    node: Arc<Node>,
    images: mpsc::Sender<String>,
    /// Notified when more images changed than the queue holds. Then all images are listed.
    overflow: Arc<Notify>,
}

impl NodeListener {
    fn new(node: Arc<Node>, tasks: &Tasks) -> Self {
        let (images, mut names) = mpsc::channel::<String>(IMAGE_EVENTS);
        let overflow = Arc::new(Notify::new());
        let (reader, missed) = (Arc::clone(&node), Arc::clone(&overflow));
        tasks.background(async move {
            loop {
                tokio::select! {
                    () = missed.notified() => refresh(&reader).await,
                    name = names.recv() => match name {
                        Some(name) => reader.images.on_event(&name).await,
                        None => return,
                    },
                }
            }
        });
        Self { node, images, overflow }
    }
}

impl Listener for NodeListener {
    async fn connected(&self) {
        self.overflow.notify_one();
    }

    async fn event(&self, event: Event) {
        match event {
            Event::TaskExit { id, exit } => self.node.store_exit_hint(id, exit),
            // Only logged: at the exit the kernel's own counter is read, because this event may be late or lost.
            Event::TaskOom { id } => tracing::debug!(container = %id, "out of memory"),
            Event::Image { name } => {
                if self.images.try_send(name).is_err() {
                    self.overflow.notify_one();
                }
            }
        }
    }
}

async fn refresh(node: &Node) {
    if let Err(error) = node.images.refresh().await {
        tracing::warn!(%error, "the images could not be listed");
    }
}

/// The features of each handler's runtime. Queried once, because each query executes a shim.
async fn features(containerd: &Containerd, config: &Config, plugins: &[Plugin]) -> HashMap<String, Features> {
    let kernel = runtime::kernel_has_user_namespaces();
    let mut all = HashMap::new();
    for handler in config.handlers.iter() {
        match containerd.runtime_features(&handler.kind, handler.options.any()).await {
            Ok(runtime) => {
                let snapshotter = handler.snapshotter.as_ref().unwrap_or(&config.images.snapshotter);
                let features = Features::new(runtime, snapshotter, plugins, kernel);
                if let Err(why) = &features.user_namespaces {
                    tracing::info!(handler = handler.name, why, "no user namespaces");
                }
                if let Some(why) = &features.outdated {
                    tracing::warn!(handler = handler.name, why, "the handler's runtime is outdated");
                }
                all.insert(handler.name.clone(), features);
            }
            Err(error) => {
                let key = format!("runtimes.{}.type", handler.name);
                tracing::warn!(%error, "config key {key}: the runtime's features cannot be queried: is its shim installed?");
            }
        }
    }
    all
}

/// The counters that exist whether or not metrics are scraped.
fn sources(tasks: &Tasks, images: &Images, logs: &Arc<Counters>) -> Sources {
    let (images, logs) = (images.clone(), Arc::clone(logs));
    let runtime = tokio::runtime::Handle::current();
    Sources {
        operations: tasks.operations().clone(),
        logs: Box::new(move || {
            let counts = logs.counts();
            Logs {
                written: counts.written,
                dropped_bytes: counts.dropped_bytes,
                dropped_records: counts.dropped_records,
                missed_barriers: counts.missed_barriers,
            }
        }),
        downloaded: Box::new(move || images.downloaded()),
        alive_tasks: Box::new(move || runtime.metrics().num_alive_tasks()),
    }
}

fn private_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("create {}", path.display()))?;
    // Also narrows the mode of a directory that an earlier installation created too wide (CVE-2024-25621).
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| format!("chmod {}", path.display()))
}

fn network_settings(config: &Config, metrics: &Metrics) -> network::Settings {
    network::Settings {
        configs: ConfigDir { path: config.cni.conf_dir.clone(), limit: config.cni.max_conf_num },
        bin_dirs: config.cni.bin_dirs.clone(),
        cache_dir: config.cni.cache_dir.clone(),
        owner: network::Owner {
            containerd: config.containerd.address.clone(),
            namespace: config.containerd.namespace.clone(),
        },
        state_dir: config.state.join("cni"),
        conf_template: config.cni.conf_template.clone(),
        ip_preference: config.cni.ip_preference,
        metrics: metrics.clone(),
        ..network::Settings::default()
    }
}

fn own_networks(config: &Config) -> BTreeMap<String, ConfigDir> {
    let handlers = config.handlers.iter();
    handlers.filter_map(|handler| Some((handler.name.clone(), handler.cni.clone()?))).collect()
}

fn image_settings(config: &Config, metrics: &Metrics) -> anyhow::Result<images::Settings> {
    let pinned = config.images.pinned_images.iter();
    let pinned: Result<Vec<String>, _> = pinned.map(|name| images::normalised(name)).collect();
    Ok(images::Settings {
        registry_config_path: config.images.registry_config_path.clone(),
        snapshotter: config.images.snapshotter.clone(),
        handler_snapshotters: handler_snapshotters(config),
        pinned_images: pinned.context("config key images.pinned_images")?,
        pace: Pace {
            bytes_per_second: config.images.min_throughput,
            window: Duration::from_secs(config.images.throughput_window),
        },
        metrics: metrics.clone(),
        ..images::Settings::default()
    })
}

fn handler_snapshotters(config: &Config) -> BTreeMap<String, String> {
    let of = |handler: &Handler| handler.snapshotter.clone().unwrap_or_else(|| config.images.snapshotter.clone());
    let named = config.handlers.iter().map(|handler| (handler.name.clone(), of(handler)));
    // A request without a handler name means the default handler.
    named.chain(config.handlers.get("").map(|handler| (String::new(), of(handler)))).collect()
}
