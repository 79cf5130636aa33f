//! Combines the file and the flags into one immutable [`Config`]; no other module reads either.
//!
//! The file's keys are documented in `examples/config.toml`, which a test parses.

mod file;
mod flags;
mod handlers;
mod limits;
mod streaming;

use std::path::PathBuf;

pub use file::{AppArmor, Cdi, Cni, ContainerdSection, File, Images, Log, LogFormat, MetricsSection, Selinux, Traces};
pub use flags::{Cli, Command, ServeFlags, TopFlags};
pub use handlers::{Handler, Handlers};
pub use limits::Limits;
pub use streaming::Streaming;

use crate::lsm::selinux::MAX_CATEGORIES;
use crate::telemetry::Endpoint;

/// containerd's limit for the name of a namespace, in bytes.
const LONGEST_NAMESPACE: usize = 76;

/// Why a configuration cannot be used; each variant names the file, line or key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read config {path}")]
    Read {
        /// The configuration file, or a base spec that it names.
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key; the message names the line.
    #[error("config {path}: {source}")]
    Parse {
        path: PathBuf,
        /// Line, column, and what is wrong there.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("config key {key}: {problem}")]
    Value {
        /// The key, with the name of its table.
        key: String,
        problem: String,
    },
}

/// The whole configuration, checked and resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket on which CRI is served.
    pub socket: PathBuf,
    /// The socket for Pontoon's own commands, which only root may use.
    pub admin_socket: PathBuf,
    /// Directory of data that survives a reboot: volumes, the pause root.
    pub root: PathBuf,
    /// Directory of data that does not survive a reboot: FIFOs, pod files.
    pub state: PathBuf,
    /// Directory in which network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// The name that kubelet shows as the container runtime.
    pub runtime_name: String,
    /// Whether a `host_path` that does not exist is created, or else refused.
    pub create_missing_host_path: bool,
    /// Whether a container's user and group own the devices that it requests.
    pub own_devices: bool,
    /// Directories that Localhost seccomp profiles may be in.
    pub seccomp_profile_roots: Vec<PathBuf>,
    /// Whether to start although the namespace has running pods of containerd's own CRI plugin.
    pub allow_foreign_pods: bool,
    pub log: Log,
    /// Where metrics are served; `None` if they are not.
    pub metrics: Option<Endpoint>,
    /// Where traces are sent.
    pub traces: Traces,
    /// How to reach containerd.
    pub containerd: ContainerdSection,
    /// Pod networks.
    pub cni: Cni,
    /// Pulls and snapshots.
    pub images: Images,
    /// Limits of concurrent operations and of their memory.
    pub limits: Limits,
    /// Where CDI devices are defined.
    pub cdi: Cdi,
    pub apparmor: AppArmor,
    pub selinux: Selinux,
    /// Exec, attach and port-forward.
    pub streaming: crate::streaming::Settings,
    pub handlers: Handlers,
}

impl Config {
    /// Reads the file that the flags name, overrides it with the flags, and checks the result.
    ///
    /// # Errors
    /// [`Error`] names the file's line, or the key.
    pub fn load(flags: &ServeFlags) -> Result<Self, Error> {
        let mut file = match &flags.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        flags.override_file(&mut file);
        Self::resolve(file)
    }

    fn resolve(file: File) -> Result<Self, Error> {
        let admin_socket = file.admin_socket.unwrap_or_else(|| file.state.join("admin.sock"));
        let roots = file.seccomp_profile_roots.iter().map(|root| ("seccomp_profile_roots", root));
        let paths = [
            ("socket", &file.socket),
            ("admin_socket", &admin_socket),
            ("root", &file.root),
            ("state", &file.state),
            ("netns_dir", &file.netns_dir),
        ];
        for (key, path) in paths.into_iter().chain(roots) {
            if !path.is_absolute() {
                return Err(Error::Value {
                    key: key.to_owned(),
                    problem: format!("{} is not an absolute path", path.display()),
                });
            }
        }
        let create_missing_host_path = match file.missing_host_path.as_str() {
            "create" => true,
            "error" => false,
            other => {
                let problem = format!("{other:?} is neither \"create\" nor \"error\"");
                return Err(Error::Value { key: "missing_host_path".to_owned(), problem });
            }
        };
        if !(2..=MAX_CATEGORIES).contains(&file.selinux.category_range) {
            let problem = format!("{} is not between 2 and {MAX_CATEGORIES}", file.selinux.category_range);
            return Err(Error::Value { key: "selinux.category_range".to_owned(), problem });
        }
        if let Some((key, problem)) = file.limits.problem() {
            return Err(Error::Value { key: key.to_owned(), problem });
        }
        let handlers = Handlers::resolve(&file.default_runtime, &file.runtimes)?;
        Ok(Self {
            socket: file.socket,
            admin_socket,
            root: file.root,
            state: file.state,
            netns_dir: file.netns_dir,
            runtime_name: file.runtime_name,
            create_missing_host_path,
            own_devices: file.device_ownership_from_security_context,
            seccomp_profile_roots: file.seccomp_profile_roots,
            allow_foreign_pods: file.allow_foreign_pods,
            log: file.log,
            metrics: metrics(&file.metrics)?,
            traces: traces(file.traces)?,
            containerd: containerd(file.containerd)?,
            cni: file.cni,
            images: file.images,
            limits: file.limits,
            cdi: file.cdi,
            apparmor: file.apparmor,
            selinux: file.selinux,
            streaming: file.streaming.resolve()?,
            handlers,
        })
    }
}

/// Checks the namespace by containerd's rule for names, of which this leaves out that two separators may not follow each
/// other. The name becomes a part of a file name (`daemon/instance.rs`).
fn containerd(section: ContainerdSection) -> Result<ContainerdSection, Error> {
    let name = section.namespace.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > LONGEST_NAMESPACE || !name.chars().all(allowed) {
        let problem = format!(
            "{name:?} is not a containerd namespace: 1 to {LONGEST_NAMESPACE} letters, digits, '.', '_' and '-', of which \
             the first is a letter or a digit"
        );
        return Err(Error::Value { key: "containerd.namespace".to_owned(), problem });
    }
    Ok(section)
}

fn metrics(section: &MetricsSection) -> Result<Option<Endpoint>, Error> {
    if section.address.is_empty() {
        return Ok(None);
    }
    let parsed = section.address.parse();
    parsed.map(Some).map_err(|problem| Error::Value { key: "metrics.address".to_owned(), problem })
}

fn traces(section: Traces) -> Result<Traces, Error> {
    let refuse = |key: &str, problem: String| Err(Error::Value { key: format!("traces.{key}"), problem });
    if section.sampling_rate_per_million > 1_000_000 {
        let problem = format!("{} is more than a million", section.sampling_rate_per_million);
        return refuse("sampling_rate_per_million", problem);
    }
    if !section.endpoint.is_empty() && !cfg!(feature = "otlp") {
        return refuse("endpoint", "this pontoon was built without the feature otlp".to_owned());
    }
    Ok(section)
}

#[cfg(test)]
mod tests;
