//! What can fail between a sandbox and its network.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::bandwidth::InvalidBandwidth;
use super::exec::Verb;
use super::state::NotReady;

/// A failed operation and what it failed on. Texts of plugins are cut to a few KiB.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid config is loaded.
    #[error("network is not ready: {0}")]
    NotReady(NotReady),
    /// A field of the sandbox's config cannot be given to plugins.
    #[error("{field}: has one of ; = or a control character, which CNI cannot be given")]
    InvalidField {
        /// The field of PodSandboxConfig.
        field: &'static str,
    },
    /// A port that there cannot be.
    #[error("config.port_mappings[{index}].{name}: {port} is not between {least} and 65535")]
    InvalidPort {
        /// The mapping's place in the request.
        index: usize,
        /// Which of its ports.
        name: &'static str,
        /// What the request has.
        port: i32,
        /// The least that could be.
        least: i32,
    },
    /// An address that there cannot be.
    #[error("config.port_mappings[{index}].host_ip: {host_ip:?} is no address")]
    InvalidHostIp {
        /// The mapping's place in the request.
        index: usize,
        /// What the request has.
        host_ip: String,
    },
    /// A bandwidth annotation is no quantity or out of range.
    #[error(transparent)]
    Bandwidth(#[from] InvalidBandwidth),
    /// No directory has the plugin.
    #[error("cni plugin {plugin} not found in {}", list(.dirs))]
    PluginMissing {
        /// The config's `type`.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// It is there and cannot be run.
    #[error("cni plugin {plugin} is not executable: {path} (searched {})", list(.dirs))]
    PluginNotExecutable {
        /// The config's `type`.
        plugin: String,
        /// The file that was found.
        path: PathBuf,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// The plugin's process could not be started or spoken to.
    #[error("run cni plugin {plugin} {verb}")]
    Run {
        /// The config's `type`.
        plugin: String,
        /// What it was to do.
        verb: Verb,
        /// What the kernel said.
        source: io::Error,
    },
    /// The deadline passed; the plugin's process group was killed.
    #[error("cni plugin {plugin} {verb}: not done within {after:?}, killed")]
    TimedOut {
        /// The config's `type`.
        plugin: String,
        /// What it was to do.
        verb: Verb,
        /// How long it ran.
        after: Duration,
    },
    /// The plugin answered with an error.
    #[error(transparent)]
    Plugin(Box<PluginFailure>),
    /// The plugin printed more than any result has.
    #[error("cni plugin {plugin} {verb}: output of more than {limit} bytes")]
    OutputTooLarge {
        /// The config's `type`.
        plugin: String,
        /// What it was to do.
        verb: Verb,
        /// Most bytes that are taken.
        limit: usize,
    },
    /// The plugin succeeded and did not print a result.
    #[error("cni plugin {plugin} {verb}: {reason}, it printed {output:?}")]
    Garbage {
        /// The config's `type`.
        plugin: String,
        /// What it was to do.
        verb: Verb,
        /// What is wrong with it.
        reason: String,
        /// The beginning of what it printed.
        output: String,
    },
    /// The chain's result cannot be understood.
    #[error("invalid cni result: {0}")]
    InvalidResult(String),
    /// The chain succeeded and gave no address.
    #[error("the cni result has no address for {interface}")]
    NoAddress {
        /// The interface in the sandbox.
        interface: String,
    },
    /// The cache of attachments cannot be read or written.
    #[error("cni cache {path}")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No config could be made from the template.
    #[error("cni config template {path}")]
    Template {
        /// The template, or the config that could not be written.
        path: PathBuf,
        /// Why.
        source: TemplateError,
    },
    /// The work was stopped by a panic or the end of the process.
    #[error("network operation was stopped: {0}")]
    Stopped(String),
}

/// Why a template gives no config.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be read, or the config cannot be written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It has an action of Go's templates beyond those that are documented.
    #[error(
        "unsupported or misplaced {{{{{0}}}}}: .PodCIDR, range over .PodCIDRRanges or .Routes, their variables, if and end are"
    )]
    Unsupported(String),
    /// An action is not closed, or a range or if has no end.
    #[error("{0} is not closed")]
    NotClosed(String),
    /// What it gives is no network config.
    #[error("what it gives is no valid config: {0}")]
    Invalid(String),
}

/// A plugin's own error (CNI spec, "Error").
#[derive(Debug, Clone, thiserror::Error)]
#[error("cni plugin {plugin} {verb} failed: {message}{}{}", code_text(*.code), details_text(.details))]
pub struct PluginFailure {
    /// The config's `type`.
    pub plugin: String,
    /// What it was to do.
    pub verb: Verb,
    /// The spec's code below 100 (11: try again later; 50 and 51: STATUS), the plugin's own
    /// from 100 on, and 0 when it printed no error object.
    pub code: u64,
    /// Its words, or its exit status and stderr.
    pub message: String,
    /// More words, or empty.
    pub details: String,
}

fn code_text(code: u64) -> String {
    if code == 0 { String::new() } else { format!(" (code {code})") }
}

fn details_text(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(": {details}") }
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
}
