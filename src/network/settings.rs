//! Where CNI's files are, and how they are used.

use std::path::PathBuf;
use std::time::Duration;

use super::IpPreference;
use crate::telemetry::Metrics;

/// How long one operation on the whole chain of plugins may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Below the 4 minutes that kubelet allows for RunPodSandbox.
    pub add: Duration,
    pub del: Duration,
    /// For CHECK and GC.
    pub check: Duration,
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
    /// Need not exist yet.
    pub path: PathBuf,
    /// How many of its configs a sandbox is attached to, one interface each; 0 means all.
    pub limit: usize,
}

/// Where the records of the sandboxes that this instance attaches are. Only an instance with the same owner can tell
/// from them which sandboxes are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The namespace in containerd.
    pub namespace: String,
}

impl Default for Owner {
    fn default() -> Self {
        Self { containerd: "/run/containerd/containerd.sock".into(), namespace: "k8s.io".to_owned() }
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub configs: ConfigDir,
    /// The directories that plugins are searched in, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cache directory; the files are in its subdirectory `results`.
    pub cache_dir: PathBuf,
    /// Identifies this instance's files in the cache directory, which another instance may use as well.
    pub owner: Owner,
    /// Directory of the FIFOs that show which plugins run. It must be emptied by a reboot, which ends those plugins
    /// too.
    pub state_dir: PathBuf,
    /// A config template for nodes without a CNI daemon.
    pub conf_template: Option<PathBuf>,
    /// Which address of a dual-stack sandbox is its primary one.
    pub ip_preference: IpPreference,
    pub timeouts: Timeouts,
    /// Counts and times each run of a plugin.
    pub metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            configs: ConfigDir { path: "/etc/cni/net.d".into(), limit: 1 },
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
