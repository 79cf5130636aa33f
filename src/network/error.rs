//! The errors of attaching and detaching a sandbox's network.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::bandwidth::InvalidBandwidth;
use super::exec::Operation;
use super::state::NotReady;

/// The operation that failed, and on what. Output of plugins is cut to a few KiB.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid config is loaded.
    #[error("network is not ready: {0}")]
    NotReady(NotReady),
    /// A field of the sandbox's config has characters that CNI_ARGS cannot carry.
    #[error("{field}: contains a semicolon, an equals sign or a control character, which CNI_ARGS cannot carry")]
    InvalidField {
        /// The field of PodSandboxConfig.
        field: &'static str,
    },
    /// A port number out of range.
    #[error("config.port_mappings[{index}].{name}: {port} is not between {least} and 65535")]
    InvalidPort {
        /// Index of the mapping in the request.
        index: usize,
        /// Which of its ports: `host_port` or `container_port`.
        name: &'static str,
        /// The value in the request.
        port: i32,
        /// The smallest valid value.
        least: i32,
    },
    /// A host address that is not an IP address.
    #[error("config.port_mappings[{index}].host_ip: {host_ip:?} is not an IP address")]
    InvalidHostIp {
        /// Index of the mapping in the request.
        index: usize,
        /// The value in the request.
        host_ip: String,
    },
    /// A bandwidth annotation is not a quantity or is out of range.
    #[error(transparent)]
    Bandwidth(#[from] InvalidBandwidth),
    /// The plugin is in none of the directories.
    #[error("cni plugin {plugin} not found in {}", list(.dirs))]
    PluginMissing {
        /// The config's `type`.
        plugin: String,
        /// The directories that were searched.
        dirs: Vec<PathBuf>,
    },
    /// The plugin's file exists but cannot be executed.
    #[error("cni plugin {plugin} is not executable: {path} (searched {})", list(.dirs))]
    PluginNotExecutable {
        /// The config's `type`.
        plugin: String,
        /// The file that was found.
        path: PathBuf,
        /// The directories that were searched.
        dirs: Vec<PathBuf>,
    },
    /// The plugin's process could not be started, or its pipes failed.
    #[error("run cni plugin {plugin} {operation}")]
    Run {
        /// The config's `type`.
        plugin: String,
        operation: Operation,
        /// The error of the system call.
        source: io::Error,
    },
    /// The deadline passed; the plugin's process group was killed.
    #[error("cni plugin {plugin} {operation}: not done within {after:?}, killed")]
    TimedOut {
        /// The config's `type`.
        plugin: String,
        operation: Operation,
        /// How long it ran.
        after: Duration,
    },
    /// The plugin failed with an error of its own.
    #[error(transparent)]
    Plugin(Box<PluginFailure>),
    /// The plugin printed more than any valid result has.
    #[error("cni plugin {plugin} {operation}: output of more than {limit} bytes")]
    OutputTooLarge {
        /// The config's `type`.
        plugin: String,
        operation: Operation,
        /// Most bytes that are accepted.
        limit: usize,
    },
    /// The plugin succeeded but did not print a valid result.
    #[error("cni plugin {plugin} {operation}: {reason}, it printed {output:?}")]
    InvalidOutput {
        /// The config's `type`.
        plugin: String,
        operation: Operation,
        /// What is wrong with the output.
        reason: String,
        /// The beginning of the output.
        output: String,
    },
    /// The chain's result does not follow the CNI spec.
    #[error("invalid cni result: {0}")]
    InvalidResult(String),
    /// The chain succeeded but its result has no address.
    #[error("the cni result has no address for {interface}")]
    NoAddress {
        /// The interface in the sandbox.
        interface: String,
    },
    /// The cache of attachments cannot be read or written.
    #[error("read or write cni cache {path}")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The template did not produce a config.
    #[error("create cni config from a template: {path}")]
    Template {
        /// The template, or the config that could not be written.
        path: PathBuf,
        source: TemplateError,
    },
}

/// Why a template produces no config.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be read, or the config cannot be written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The template has an action of Go's templates beyond the documented ones.
    #[error(
        "unsupported or misplaced {{{{{0}}}}}: .PodCIDR, range over .PodCIDRRanges or .Routes, their variables, if and \
         end are supported"
    )]
    Unsupported(String),
    /// An action is not closed, or a `range` or `if` has no `end`.
    #[error("{0} is not closed")]
    NotClosed(String),
    /// The rendered text is not a valid network config.
    #[error("the template does not produce a valid config: {0}")]
    Invalid(String),
}

/// A plugin's own error (CNI spec, "Error").
#[derive(Debug, Clone, thiserror::Error)]
#[error("cni plugin {plugin} {operation} failed: {message}{}{}", code_text(*.code), details_text(.details))]
pub struct PluginFailure {
    /// The config's `type`.
    pub plugin: String,
    pub operation: Operation,
    /// Below 100, a code of the spec (11: try again later; 50 and 51: STATUS); from 100 on, the plugin's own code; 0
    /// when it printed no error object.
    pub code: u64,
    /// The error object's message, or the exit status and output when there is none.
    pub message: String,
    /// The error object's details, or empty.
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
