//! Combines the file and the flags into one immutable [`Config`]; no other module reads either.
//!
//! The file's keys are documented in README.md and in `examples/config.toml`; tests compare both with the keys that
//! exist.

mod check;
mod document;
mod file;
mod flags;
mod handlers;
mod keys;
mod limits;
mod log_level;
mod sockets;
mod streaming;

use std::path::PathBuf;

pub use file::{AppArmor, Cdi, Cni, ContainerdSection, File, Images, Log, LogFormat, MetricsSection, Selinux, Traces};
pub use flags::{Cli, Command, ServeFlags, TopFlags};
pub use handlers::{Handler, Handlers};
pub use limits::Limits;
pub use streaming::Streaming;

use crate::telemetry::Endpoint;
use sockets::Sockets;

/// Why a configuration cannot be used; each variant names the file, line or key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read config {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not TOML, or has an unknown key, or a value of another type than its key takes.
    #[error("config {path}, line {line}: {problem}")]
    Parse {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there, in one line.
        problem: String,
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
        check::values(&file)?;
        let sockets = Sockets::resolve(&file)?;
        let create_missing_host_path = match file.missing_host_path.as_str() {
            "create" => true,
            "error" => false,
            other => {
                return Err(check::wrong(
                    "missing_host_path",
                    format!("{other:?} is neither \"create\" nor \"error\""),
                ));
            }
        };
        let level = log_level::checked(&file.log.level)?;
        let handlers = Handlers::resolve(&file.default_runtime, &file.runtimes)?;
        Ok(Self {
            socket: sockets.cri,
            admin_socket: sockets.admin,
            root: file.root,
            state: file.state,
            netns_dir: file.netns_dir,
            runtime_name: file.runtime_name,
            create_missing_host_path,
            own_devices: file.device_ownership_from_security_context,
            seccomp_profile_roots: file.seccomp_profile_roots,
            allow_foreign_pods: file.allow_foreign_pods,
            log: Log { level, ..file.log },
            metrics: sockets.metrics,
            traces: traces(file.traces)?,
            containerd: ContainerdSection { address: sockets.containerd, ..file.containerd },
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

fn traces(section: Traces) -> Result<Traces, Error> {
    let refuse = |key: &str, problem: String| Err(check::wrong(format!("traces.{key}"), problem));
    if section.sampling_rate_per_million > 1_000_000 {
        let problem = format!("{} is more than a million", section.sampling_rate_per_million);
        return refuse("sampling_rate_per_million", problem);
    }
    if section.endpoint.is_empty() {
        return Ok(section);
    }
    if !cfg!(feature = "otlp") {
        return refuse("endpoint", "this pontoon was built without the feature otlp".to_owned());
    }
    if !is_collector(&section.endpoint) {
        return refuse("endpoint", format!("{:?} is not http://IP:PORT", section.endpoint));
    }
    Ok(section)
}

/// Whether this is the address of a collector: `http://HOST:PORT`. The exporter has no TLS, and would find other
/// mistakes only when it sends the first spans.
fn is_collector(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let Some((host, port)) = rest.and_then(|rest| rest.rsplit_once(':')) else { return false };
    let is_host = !host.is_empty() && !host.contains(|c: char| "/@?#".contains(c) || c.is_whitespace());
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests;
