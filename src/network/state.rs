//! The loaded configs, and whether sandboxes can be attached with them.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::config::{self, NetworkConfig};
use super::{ConfigDir, Settings, interface};
use crate::mutex::Mutex;

/// The networks that sandboxes are attached to, or why there are none.
pub(super) type Loaded = Result<Vec<Arc<NetworkConfig>>, NotReady>;

/// Why the condition NetworkReady is false.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// The condition's reason, one word.
    pub reason: &'static str,
    /// The condition's message.
    pub message: String,
}

impl NotReady {
    /// The reason that containerd and CRI-O give, which tools rely on.
    const REASON: &str = "NetworkPluginNotReady";

    pub(super) fn new(message: String) -> Self {
        Self { reason: Self::REASON, message }
    }

    pub(super) fn no_config(dir: &ConfigDir) -> Self {
        Self::new(format!("cni config uninitialized: no conflist in {}", dir.path.display()))
    }
}

/// The loaded networks, and the outcome of the last STATUS of their plugins.
pub(super) struct State {
    loaded: watch::Sender<Loaded>,
    /// The last failure of STATUS. It belongs to the networks that are loaded now.
    status: Mutex<Option<NotReady>>,
}

impl State {
    pub(super) fn load(dir: &ConfigDir) -> Self {
        let first = read(dir);
        report(&first);
        Self { loaded: watch::Sender::new(first), status: Mutex::new(None) }
    }

    /// Loads the directory again. Does nothing if the networks are the same.
    pub(super) fn reload(&self, dir: &ConfigDir) {
        let found = read(dir);
        let changed = self.loaded.send_if_modified(|loaded| {
            let changed = !same(loaded, &found);
            if changed {
                loaded.clone_from(&found);
            }
            changed
        });
        if changed {
            report(&found);
        }
    }

    pub(super) fn loaded(&self) -> Loaded {
        self.loaded.borrow().clone()
    }

    /// A receiver that is notified of each change of the networks.
    pub(super) fn changes(&self) -> watch::Receiver<Loaded> {
        self.loaded.subscribe()
    }

    /// `None` when STATUS succeeded.
    pub(super) fn set_status(&self, status: Option<NotReady>) {
        *self.status.lock() = status;
    }

    pub(super) fn ready(&self) -> Result<(), NotReady> {
        self.loaded()?;
        self.status.lock().clone().map_or(Ok(()), Err)
    }
}

fn read(dir: &ConfigDir) -> Loaded {
    match config::load(&dir.path, dir.limit) {
        Ok(networks) if networks.is_empty() => Err(NotReady::no_config(dir)),
        Ok(networks) => Ok(networks),
        Err(invalid) => Err(NotReady::new(format!("cni config uninitialized: {invalid}"))),
    }
}

fn same(a: &Loaded, b: &Loaded) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.bytes == b.bytes && a.source == b.source)
        }
        (Err(a), Err(b)) => a == b,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

fn report(loaded: &Loaded) {
    match loaded {
        Ok(networks) => {
            for network in networks {
                let source = network.source.display();
                tracing::info!(network = network.name, version = network.cni_version, %source, "cni config loaded");
            }
        }
        Err(not_ready) => tracing::warn!("{}", not_ready.message),
    }
}

/// The form of containerd's `cniconfig` in the verbose Status, which users of `crictl info` parse.
pub(super) fn config_json(settings: &Settings, loaded: &Loaded) -> Value {
    let network = |(index, network): (usize, &Arc<NetworkConfig>)| {
        let plugins: Vec<_> = network
            .plugins
            .iter()
            .map(|plugin| json!({ "Network": plugin.raw, "Source": Value::Object(plugin.raw.clone()).to_string() }))
            .collect();
        json!({
            "Config": {
                "Name": network.name,
                "CNIVersion": network.cni_version,
                "Plugins": plugins,
                "Source": String::from_utf8_lossy(&network.bytes),
            },
            "IFName": interface(index),
        })
    };
    let networks: Vec<_> = loaded.iter().flatten().enumerate().map(network).collect();
    json!({
        "PluginDirs": settings.bin_dirs,
        "PluginConfDir": settings.configs.path,
        "PluginMaxConfNum": settings.configs.limit,
        "Prefix": "eth",
        "Networks": networks,
    })
}
