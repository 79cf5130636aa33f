//! Where CNI's files are, and how they are used.

use std::path::PathBuf;
use std::time::Duration;

use super::IpPreference;
use crate::telemetry::Metrics;

/// How long the whole chain of plugins may take for one verb.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// ADD; below the 4 minutes that kubelet gives RunPodSandbox.
    pub add: Duration,
    /// DEL.
    pub del: Duration,
    /// CHECK and GC.
    pub check: Duration,
    /// STATUS.
    pub status: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            add: Duration::from_secs(220),
            del: Duration::from_secs(220),
            check: Duration::from_secs(60),
            status: Duration::from_secs(10),
        }
    }
}

/// A directory of network configs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDir {
    /// Where; it need not exist yet.
    pub path: PathBuf,
    /// How many of its configs a sandbox is attached to, one interface each; 0 is all.
    pub most: usize,
}

/// Where the records of the sandboxes are that this instance attaches: whoever looks there knows which of them are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The namespace in it.
    pub namespace: String,
}

impl Default for Owner {
    fn default() -> Self {
        Self { containerd: "/run/containerd/containerd.sock".into(), namespace: "k8s.io".to_owned() }
    }
}

/// Where CNI's files are, and how they are used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Network configs.
    pub configs: ConfigDir,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cache; the files are in its directory `results`.
    pub cache_dir: PathBuf,
    /// Whose the files are that are written there; the directory may be another instance's as well.
    pub owner: Owner,
    /// What says which plugins run; gone with a reboot, as they are.
    pub state_dir: PathBuf,
    /// A template of a config for nodes without a CNI daemon.
    pub conf_template: Option<PathBuf>,
    /// Which address of a dual-stack sandbox is its primary one.
    pub ip_preference: IpPreference,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Hears of each run of a plugin.
    pub metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            configs: ConfigDir { path: "/etc/cni/net.d".into(), most: 1 },
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            owner: Owner::default(),
            state_dir: "/run/pontoon/cni".into(),
            conf_template: None,
            ip_preference: IpPreference::default(),
            timeouts: Timeouts::default(),
            metrics: Metrics::default(),
        }
    }
}
