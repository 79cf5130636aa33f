//! The configuration file: TOML. Each key is optional, and an unknown key is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Error, Limits, Streaming, document};
use crate::lsm::selinux::MAX_CATEGORIES;
use crate::network::IpPreference;

/// The file as it is written. `examples/config.toml` shows each key with its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is documented in examples/config.toml and on Config")]
pub struct File {
    pub socket: PathBuf,
    pub admin_socket: Option<PathBuf>,
    pub root: PathBuf,
    pub state: PathBuf,
    pub netns_dir: PathBuf,
    pub runtime_name: String,
    pub missing_host_path: String,
    pub device_ownership_from_security_context: bool,
    pub seccomp_profile_roots: Vec<PathBuf>,
    pub allow_foreign_pods: bool,
    pub default_runtime: String,
    pub log: Log,
    pub metrics: MetricsSection,
    pub traces: Traces,
    pub containerd: ContainerdSection,
    pub cni: Cni,
    pub images: Images,
    pub limits: Limits,
    pub cdi: Cdi,
    pub apparmor: AppArmor,
    pub selinux: Selinux,
    pub streaming: Streaming,
    pub runtimes: BTreeMap<String, Runtime>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            socket: "/run/pontoon/pontoon.sock".into(),
            admin_socket: None,
            root: "/var/lib/pontoon".into(),
            state: "/run/pontoon".into(),
            netns_dir: "/var/run/netns".into(),
            runtime_name: "pontoon".to_owned(),
            missing_host_path: "create".to_owned(),
            device_ownership_from_security_context: false,
            seccomp_profile_roots: vec!["/var/lib/kubelet/seccomp".into()],
            allow_foreign_pods: false,
            default_runtime: "runc".to_owned(),
            log: Log::default(),
            metrics: MetricsSection::default(),
            traces: Traces::default(),
            containerd: ContainerdSection::default(),
            cni: Cni::default(),
            images: Images::default(),
            limits: Limits::default(),
            cdi: Cdi::default(),
            apparmor: AppArmor::default(),
            selinux: Selinux::default(),
            streaming: Streaming::default(),
            runtimes: BTreeMap::new(),
        }
    }
}

impl File {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`Error::Read`] when it cannot be read, or [`Error::Parse`] with the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        document::parse(text).map_err(|wrong| Error::Parse {
            path: path.to_owned(),
            line: wrong.line,
            problem: wrong.problem,
        })
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level, or a level and directives as `tracing` takes them (`info,pontoon::network=debug`).
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// `IP:PORT` on the loopback interface, or `unix:///PATH`; empty for none.
    pub address: String,
}

/// `[traces]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// The address of an OTLP collector (gRPC), `http://IP:PORT`; empty for none.
    pub endpoint: String,
    /// How many calls in a million are traced, of those whose client does not say whether to trace them.
    pub sampling_rate_per_million: u32,
}

/// `[containerd]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerdSection {
    /// containerd's gRPC socket.
    pub address: PathBuf,
    /// containerd namespace of all pods; kubelet's cAdvisor looks only in `k8s.io`.
    pub namespace: String,
}

impl Default for ContainerdSection {
    fn default() -> Self {
        Self { address: "/run/containerd/containerd.sock".into(), namespace: "k8s.io".to_owned() }
    }
}

/// `[cni]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cni {
    /// Directory of network configurations; changes are watched.
    pub conf_dir: PathBuf,
    /// Directories in which plugins are searched, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory in which results are cached, in libcni's form.
    pub cache_dir: PathBuf,
    /// How many configurations of the directory are used, in the order of their names; 0 for all.
    pub max_conf_num: usize,
    /// A template that UpdateRuntimeConfig fills with the node's pod CIDRs.
    pub conf_template: Option<PathBuf>,
    /// Which address of a pod comes first: `ipv4`, `ipv6`, or `cni` for the plugin's order.
    #[serde(rename = "ip_pref", deserialize_with = "ip_preference")]
    pub ip_preference: IpPreference,
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            max_conf_num: 1,
            conf_template: None,
            ip_preference: IpPreference::default(),
        }
    }
}

fn ip_preference<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<IpPreference, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "ipv4" => Ok(IpPreference::Ipv4),
        "ipv6" => Ok(IpPreference::Ipv6),
        "cni" => Ok(IpPreference::Cni),
        other => Err(serde::de::Error::unknown_variant(other, &["ipv4", "ipv6", "cni"])),
    }
}

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Directories of `hosts.toml` files, separated by colons; passed to containerd with each pull.
    pub registry_config_path: String,
    /// The default snapshotter of containerd.
    pub snapshotter: String,
    /// References of images that kubelet's garbage collection must spare.
    pub pinned_images: Vec<String>,
    /// Minimum of bytes per second of a download, as a mean over the window.
    pub min_throughput: u64,
    /// The window in seconds; 0 disables the check.
    pub throughput_window: u64,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            registry_config_path: "/etc/containerd/certs.d:/etc/docker/certs.d".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            pinned_images: Vec::new(),
            min_throughput: 1024,
            throughput_window: 300,
        }
    }
}

/// `[cdi]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cdi {
    /// Directories of vendors' specs of devices; a later directory takes precedence.
    pub spec_dirs: Vec<PathBuf>,
    /// Whether a container may also request devices by annotations, which device plugins can set.
    pub annotations: bool,
}

impl Default for Cdi {
    fn default() -> Self {
        Self { spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()], annotations: true }
    }
}

/// `[apparmor]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppArmor {
    /// Whether containers get profiles if the kernel has AppArmor.
    pub enabled: bool,
}

impl Default for AppArmor {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[selinux]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selinux {
    /// Whether pods get labels if the kernel has SELinux with a policy.
    pub enabled: bool,
    /// From how many categories the two in a pod's level are chosen.
    pub category_range: u16,
}

impl Default for Selinux {
    fn default() -> Self {
        Self { enabled: true, category_range: MAX_CATEGORIES }
    }
}

/// `[runtimes.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// containerd's runtime type; the default is `io.containerd.runc.v2`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The runtime's options, with the names of containerd's own configuration.
    pub options: BTreeMap<String, toml::Value>,
    /// An OCI spec as JSON from which the specs of this handler start.
    pub base_runtime_spec: Option<PathBuf>,
    /// The handler's own snapshotter, instead of that of `[images]`.
    pub snapshotter: Option<String>,
    /// The handler's own directory of CNI configs; plugins and cache are those of `[cni]`.
    pub cni_conf_dir: Option<PathBuf>,
    /// How many configs of `cni_conf_dir` are used; 0 for all, the default is 1.
    pub cni_max_conf_num: Option<usize>,
    /// Whether a privileged container gets no host devices.
    pub privileged_without_host_devices: bool,
    /// Globs of pod annotations that are copied to specs.
    pub pod_annotations: Vec<String>,
    /// Globs of container annotations that are copied to specs.
    pub container_annotations: Vec<String>,
    /// Whether pods run in virtual machines: then the network is set up before the task is created.
    pub virtual_machine: bool,
}
