//! libcni's cache of attachments: one file each, `results/<network>-<container>-<interface>`.
//!
//! libcni writes the file after ADD. Pontoon also writes it before ADD, without a result, so that after a crash in the
//! middle of ADD, DEL still runs with the config that ADD had. Multus keeps the files of its delegates in the same
//! directory under the same container ids, so Pontoon marks its own files in fields that libcni does not know and
//! ignores. Another Pontoon instance may use the same directory, so the fields also name the containerd and the
//! namespace that have the sandbox's record: only the instance that uses those can tell that the sandbox is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::chain::RuntimeConf;
use super::config::NetworkConfig;
use super::error::Error;
use super::settings::Owner;
use crate::ids::SandboxId;
use crate::joined::run_blocking;
use crate::sys::{read, write};

const KIND: &str = "cniCacheV1";
const OWNER: &str = "pontoon";
/// Age at which an unfinished write counts as abandoned: a write takes milliseconds.
const ABANDONED: Duration = Duration::from_secs(600);

/// What a written entry must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// A crash of this process.
    Process,
    /// A crash of the node too: the IPAM plugin's own files keep the addresses allocated across it.
    Disk,
}

/// One attachment.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub config: Arc<NetworkConfig>,
    pub runtime: RuntimeConf,
    /// `None` until ADD has succeeded.
    pub result: Option<Value>,
}

/// The file's format (libcni/api.go, cachedInfo).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedInfo {
    kind: String,
    container_id: String,
    /// The conflist in base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    /// This field and the two below are Pontoon's own.
    #[serde(default)]
    owner: String,
    /// The socket of the containerd that has the sandbox's record, and (below) the namespace in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner_containerd: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner_namespace: Option<String>,
}

/// The sandboxes of Pontoon instances that have files in the directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// Sandboxes whose records would be in our containerd's namespace, each with the paths of its network namespace.
    pub ours: BTreeMap<SandboxId, Vec<PathBuf>>,
    /// Sandboxes of other instances, and of a Pontoon version that did not write the owner's containerd.
    pub others: BTreeSet<SandboxId>,
}

/// The directory `results` in libcni's cache, and the owner that is written into its files.
#[derive(Clone)]
pub(super) struct Cache {
    results: PathBuf,
    owner: Owner,
}

impl Cache {
    pub(super) fn new(cache_dir: &Path, owner: Owner) -> Self {
        Self { results: cache_dir.join("results"), owner }
    }

    /// Removes the unfinished writes of killed processes. Other programs do not use such file names, and a write that
    /// another instance has in progress is younger than [`ABANDONED`].
    pub(super) fn sweep(&self) {
        let unfinished = |path: &Path| {
            let name = name(path);
            name.starts_with('.')
                && name.ends_with(".tmp")
                && name.split('-').any(|part| SandboxId::parse(part).is_ok())
                && is_older(path, ABANDONED)
        };
        for entry in
            fs::read_dir(&self.results).into_iter().flatten().flatten().filter(|entry| unfinished(&entry.path()))
        {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Atomically replaces the entry's file.
    pub(super) async fn write(&self, entry: &Entry, durability: Durability) -> Result<(), Error> {
        let (results, target) = (self.results.clone(), self.path(entry));
        let bytes = encode(entry, &self.owner);
        run_blocking(move || {
            let written = replace(&results, &target, &bytes, durability);
            written.map_err(|source| Error::Cache { path: target, source })
        })
        .await
    }

    /// Removes an entry. An absent one is no error.
    pub(super) async fn remove(&self, entry: &Entry) -> Result<(), Error> {
        let target = self.path(entry);
        let unfinished = unfinished(&self.results, &target);
        run_blocking(move || {
            // The temporary file is left from a crash in the middle of a write. DEL has run, so no write will follow.
            for path in [unfinished, target] {
                match fs::remove_file(&path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::Cache { path, source });
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    /// A sandbox's entries in the order of their interfaces: those that Pontoon wrote, and those of other programs for
    /// one of the `known` pairs of network and interface.
    pub(super) async fn find(&self, id: &SandboxId, known: Vec<(String, String)>) -> Result<Vec<Entry>, Error> {
        let (results, id) = (self.results.clone(), id.clone());
        run_blocking(move || {
            let mut found = Vec::new();
            let part = format!("-{id}-");
            for path in list(&results)?.into_iter().filter(|path| name(path).contains(&part)) {
                let Some(info) = read(&path) else { continue };
                let known = known.iter().any(|(network, name)| *network == info.network_name && *name == info.if_name);
                if info.container_id == id.as_str() && (info.owner == OWNER || known) {
                    found.extend(decode(info, &path));
                }
            }
            found.sort_by(|a, b| a.runtime.interface.cmp(&b.runtime.interface));
            Ok(found)
        })
        .await
    }

    /// The sandboxes that Pontoon's entries are about.
    pub(super) async fn all(&self) -> Result<Cached, Error> {
        let (results, owner) = (self.results.clone(), self.owner.clone());
        run_blocking(move || {
            let mut cached = Cached::default();
            for info in list(&results)?.into_iter().filter_map(|path| read(&path)).filter(|info| info.owner == OWNER) {
                let Ok(id) = SandboxId::parse(&info.container_id) else { continue };
                let whose = (info.owner_containerd.as_ref(), info.owner_namespace.as_ref());
                if whose == (Some(&owner.containerd), Some(&owner.namespace)) {
                    cached.ours.entry(id).or_default().push(info.netns.into());
                } else {
                    cached.others.insert(id);
                }
            }
            Ok(cached)
        })
        .await
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        let (network, runtime) = (&entry.config.name, &entry.runtime);
        self.results.join(format!("{network}-{}-{}", runtime.id, runtime.interface))
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_older(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|file| file.modified());
    // A modification time in the future gives no age: the clock was set back, and the file stays until another start.
    written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|since| since > age))
}

fn list(results: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(results).and_then(|all| all.map(|entry| Ok(entry?.path())).collect());
    match entries {
        // Names of unfinished writes begin with a dot.
        Ok(entries) => Ok(Vec::into_iter(entries).filter(|path| !name(path).starts_with('.')).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Cache { path: results.to_owned(), source }),
    }
}

/// Largest file that is read; the result of a pod with 400 host ports takes 60 KB.
const LARGEST: u64 = 4 << 20;

/// Reads a cache file. `None` if it is gone or not in libcni's format: other programs write into this directory too.
fn read(path: &Path) -> Option<CachedInfo> {
    let bytes = match read::regular(path, LARGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cni cache file cannot be read, the loaded config is used instead");
            return None;
        }
    };
    let info: Option<CachedInfo> = serde_json::from_slice(&bytes).ok();
    if info.is_none() && !bytes.is_empty() {
        tracing::warn!(path = %path.display(), "cni cache file is not readable, the loaded config is used instead");
    }
    info.filter(|info| info.kind == KIND)
}

fn decode(info: CachedInfo, path: &Path) -> Option<Entry> {
    let bytes = BASE64_STANDARD.decode(&info.config).map_err(|error| error.to_string());
    let config = match bytes.and_then(|bytes| NetworkConfig::from_list(&bytes)) {
        Ok(config) => config,
        Err(reason) => {
            tracing::warn!(path = %path.display(), reason, "cni cache file has no valid config, the loaded one is used");
            return None;
        }
    };
    let runtime = RuntimeConf {
        id: info.container_id,
        netns: (!info.netns.is_empty()).then(|| info.netns.into()),
        interface: info.if_name,
        args: info.cni_args.unwrap_or_default(),
        capabilities: info.capability_args.unwrap_or_default(),
    };
    Some(Entry { config: Arc::new(config), runtime, result: info.result.filter(Value::is_object) })
}

fn encode(entry: &Entry, owner: &Owner) -> Vec<u8> {
    let runtime = entry.runtime.clone();
    let info = CachedInfo {
        kind: KIND.to_owned(),
        container_id: runtime.id,
        config: BASE64_STANDARD.encode(&entry.config.bytes),
        if_name: runtime.interface,
        network_name: entry.config.name.clone(),
        netns: runtime.netns.map(|path| path.display().to_string()).unwrap_or_default(),
        cni_args: Some(runtime.args),
        capability_args: Some(runtime.capabilities),
        result: entry.result.clone(),
        owner: OWNER.to_owned(),
        owner_containerd: Some(owner.containerd.clone()),
        owner_namespace: Some(owner.namespace.clone()),
    };
    // Strings, and maps with string keys, always have a JSON form.
    serde_json::to_vec(&info).unwrap_or_default()
}

/// The temporary file that an entry is written to before it is renamed. The name is the same each time: a file left
/// from a crash is overwritten, or removed together with the entry.
fn unfinished(results: &Path, target: &Path) -> PathBuf {
    results.join(format!(".{}.tmp", name(target)))
}

fn replace(results: &Path, target: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(results)?;
    let unfinished = unfinished(results, target);
    let mut file = write::replace(&unfinished, 0o600)?;
    file.write_all(bytes)?;
    if durability == Durability::Disk {
        // The directory is not synced: if a power failure undoes the rename, the previous entry is still there, which
        // is enough for DEL.
        file.sync_data()?;
    }
    fs::rename(&unfinished, target)
}
