//! The hosts.toml directories: which one containerd has to read for a pull, and which mirrors it names. containerd
//! reads the files itself; we read them only to find out which hosts may get the credentials.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sys::read;

/// Largest hosts.toml that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Where the configuration of a registry is, and which hosts it makes trusted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Registry {
    /// The root directory to pass to containerd; empty for none.
    pub(super) directory: String,
    /// The registry's host and its mirrors.
    pub(super) hosts: Vec<String>,
}

#[derive(Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, serde::de::IgnoredAny>,
}

impl Registry {
    /// Looks `host` up in a list of directories, separated by colons as in containerd's `config_path`. Transfer accepts
    /// one directory and does not split the list. So we pass the first directory that has the host, as containerd's own
    /// CRI plugin does.
    pub(super) fn find(config_path: &str, host: &str) -> Self {
        let mut hosts = vec![host.to_owned()];
        for root in config_path.split(':').filter(|root| !root.is_empty()) {
            if let Some(directory) = host_directory(Path::new(root), host) {
                hosts.extend(mirrors(&directory.join("hosts.toml")));
                return Self { directory: root.to_owned(), hosts };
            }
        }
        Self { directory: String::new(), hosts }
    }
}

/// The first that exists of `<root>/<host>` (for a host with a port, `<name>_<port>_` comes first) and
/// `<root>/_default`.
fn host_directory(root: &Path, host: &str) -> Option<PathBuf> {
    let escaped = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = escaped.into_iter().chain([host.to_owned(), "_default".to_owned()]);
    names.map(|name| root.join(name)).find(|path| path.exists())
}

/// The hosts in a hosts.toml. A file that cannot be read names none; then containerd falls back to the registry itself
/// as well.
fn mirrors(file: &Path) -> Vec<String> {
    let Ok(text) = read::text(file, LARGEST) else { return Vec::new() };
    let Ok(parsed) = toml::from_str::<HostsFile>(&text) else { return Vec::new() };
    let urls = parsed.server.into_iter().chain(parsed.host.into_keys());
    urls.filter_map(|url| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        (!host.is_empty()).then(|| host.to_owned())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_that_knows_the_host_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        std::fs::create_dir_all(a.join("other.example")).unwrap();
        std::fs::create_dir_all(b.join("r.example_5000_")).unwrap();
        let file = "server = \"https://r.example:5000\"\n[host.\"http://mirror.example:80/v2/x\"]\ncapabilities = [\"pull\"]\n";
        std::fs::write(b.join("r.example_5000_/hosts.toml"), file).unwrap();
        let path = format!("{}:{}:/does/not/exist", a.display(), b.display());
        let found = Registry::find(&path, "r.example:5000");
        assert_eq!(found.directory, b.display().to_string());
        assert_eq!(found.hosts, ["r.example:5000", "r.example:5000", "mirror.example:80"]);
        assert_eq!(Registry::find(&path, "third.example").directory, "");
        std::fs::create_dir_all(a.join("_default")).unwrap();
        assert_eq!(Registry::find(&path, "third.example").directory, a.display().to_string());
    }
}
