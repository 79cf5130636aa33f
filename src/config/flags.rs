//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::File;

/// A CRI server between kubelet and containerd.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, about, max_term_width = 100)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Pontoon's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve CRI until SIGTERM
    Serve(ServeFlags),
    /// Show pods, their resource usage, and the operations in progress
    Top(TopFlags),
}

/// Flags of `pontoon serve`; each overrides the key of the file.
#[derive(Debug, Default, Args)]
pub struct ServeFlags {
    /// Configuration file (TOML); a key that it does not set has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket to serve CRI on [default: /run/pontoon/pontoon.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory of data that survives a reboot [default: /var/lib/pontoon]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory of data that does not survive a reboot [default: /run/pontoon]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// containerd's socket [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "PATH")]
    pub containerd: Option<PathBuf>,
    /// Socket for Pontoon's own commands [default: admin.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Log level or directives, such as `info` or `info,pontoon::network=debug`
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The configuration file that the systemd unit passes to `pontoon serve`.
const FILE_OF_THE_UNIT: &str = "/etc/pontoon/config.toml";

/// Flags of `pontoon top`.
#[derive(Debug, Default, Args)]
pub struct TopFlags {
    /// The daemon's configuration file, which says where its sockets are [default: /etc/pontoon/config.toml, if that
    /// exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's CRI socket [default: /run/pontoon/pontoon.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The daemon's socket for commands [default: /run/pontoon/admin.sock]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Print one plain table and exit
    #[arg(long)]
    pub once: bool,
    /// Seconds between two samples
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub interval: u64,
}

impl TopFlags {
    /// The flags of `pontoon serve` that lead to the same sockets.
    #[must_use]
    pub fn serve_flags(&self) -> ServeFlags {
        ServeFlags {
            config: self.config_file(Path::new(FILE_OF_THE_UNIT)),
            socket: self.socket.clone(),
            admin_socket: self.admin_socket.clone(),
            ..ServeFlags::default()
        }
    }

    /// The file to read: the one that is named, or else the unit's, if it exists and is needed.
    pub(super) fn config_file(&self, of_the_unit: &Path) -> Option<PathBuf> {
        let all_is_given = self.socket.is_some() && self.admin_socket.is_some();
        // If it cannot be found out whether the file exists, reading it gives an error that names it.
        let exists = || of_the_unit.try_exists().unwrap_or(true);
        self.config.clone().or_else(|| (!all_is_given && exists()).then(|| of_the_unit.to_owned()))
    }
}

impl ServeFlags {
    pub(super) fn override_file(&self, file: &mut File) {
        let paths = [
            (&self.socket, &mut file.socket),
            (&self.root, &mut file.root),
            (&self.state, &mut file.state),
            (&self.containerd, &mut file.containerd.address),
        ];
        for (flag, key) in paths {
            if let Some(path) = flag {
                key.clone_from(path);
            }
        }
        if self.admin_socket.is_some() {
            file.admin_socket.clone_from(&self.admin_socket);
        }
        if let Some(level) = &self.log_level {
            file.log.level.clone_from(level);
        }
    }
}
