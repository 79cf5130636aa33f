//! Network configs: conflist files, and the older conf files with a single plugin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::sys::read;

/// A larger file is not accepted as a config.
pub(super) const LARGEST_FILE: u64 = 1 << 20;
/// The extensions that libcni accepts. The order of loading depends on the file names only.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];
/// The newest version of the spec that this module supports.
const NEWEST: Version = Version(1, 1, 0);
/// The version of a config that does not state one (CNI spec, "Version considerations").
const DEFAULT_VERSION: &str = "0.1.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u32, pub u32, pub u32);

/// A network: a name and the chain of its plugins.
#[derive(Clone, Debug)]
pub(super) struct NetworkConfig {
    /// Safe to use in a file name.
    pub name: String,
    /// The version of the spec, as the config spells it.
    pub cni_version: String,
    /// `cni_version`, parsed for comparison.
    pub version: Version,
    /// Whether the config forbids CHECK.
    pub disable_check: bool,
    /// Whether the config forbids GC.
    pub disable_gc: bool,
    /// In the order of ADD; never empty.
    pub plugins: Vec<PluginConfig>,
    /// The config as one conflist, for the cache.
    pub bytes: Vec<u8>,
    /// The file it was loaded from; empty for a config from the cache.
    pub source: PathBuf,
}

/// One plugin of a chain.
#[derive(Clone, Debug)]
pub(super) struct PluginConfig {
    /// The file name of the executable, without a `/`.
    pub kind: String,
    /// The capabilities that the plugin wants arguments for.
    pub capabilities: Vec<String>,
    /// The plugin's complete config.
    pub raw: Map<String, Value>,
}

/// A file that is not a valid network config.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub(super) struct InvalidConfig {
    pub file: PathBuf,
    pub reason: String,
}

/// Loads the first `limit` configs of the directory (0 means all), in the order of their file names. An absent
/// directory gives an empty list.
///
/// One invalid file among them is an error. Skipping it would attach sandboxes to whichever network comes after the
/// intended one.
pub(super) fn load(dir: &Path, limit: usize) -> Result<Vec<Arc<NetworkConfig>>, InvalidConfig> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let files = files(dir, &EXTENSIONS).map_err(|error| InvalidConfig::new(dir, error))?;
    files.iter().take(limit).map(|file| read(file).map(Arc::new)).collect()
}

fn files(dir: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let fits = path.extension().is_some_and(|given| extensions.iter().any(|known| given == *known));
        if fits && !entry.file_type()?.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(file: &Path) -> Result<NetworkConfig, InvalidConfig> {
    let invalid = |reason: String| InvalidConfig::new(file, reason);
    let bytes = read::regular(file, LARGEST_FILE).map_err(|error| invalid(error.to_string()))?;
    let list = file.extension().is_some_and(|extension| extension == "conflist");
    let mut network =
        if list { NetworkConfig::from_list(&bytes) } else { NetworkConfig::from_plugin(&bytes) }.map_err(invalid)?;
    if list {
        network.add_plugins_beside(file)?;
    }
    if network.plugins.is_empty() {
        return Err(invalid("it has no plugins".to_owned()));
    }
    network.source = file.to_owned();
    Ok(network)
}

impl NetworkConfig {
    /// Parses a conflist. The list of plugins may be absent, since plugins may also be in files of their own.
    pub(super) fn from_list(bytes: &[u8]) -> Result<Self, String> {
        let raw = object(bytes)?;
        let name = text(&raw, "name")?.ok_or("it has no \"name\"")?;
        valid_name(&name)?;
        let (cni_version, version) = choose_version(&raw)?;
        let plugins = match raw.get("plugins") {
            None => Vec::new(),
            Some(Value::Array(all)) if all.is_empty() => return Err("its list of plugins is empty".to_owned()),
            Some(Value::Array(all)) => {
                let numbered = all.iter().enumerate();
                let parse = |(index, plugin): (usize, &Value)| {
                    PluginConfig::parse(plugin).map_err(|reason| format!("plugin {index}: {reason}"))
                };
                numbered.map(parse).collect::<Result<_, String>>()?
            }
            Some(_) => return Err("\"plugins\" is not a list".to_owned()),
        };
        Ok(Self {
            name,
            cni_version,
            version,
            disable_check: flag(&raw, "disableCheck")?,
            disable_gc: flag(&raw, "disableGC")?,
            plugins,
            bytes: bytes.to_owned(),
            source: PathBuf::new(),
        })
    }

    /// Parses the config of a single plugin into a list of one.
    pub(super) fn from_plugin(bytes: &[u8]) -> Result<Self, String> {
        let raw = object(bytes)?;
        if !raw.contains_key("type") {
            return Err("it has no \"type\" (a list of plugins belongs in a .conflist file)".to_owned());
        }
        let mut list = Map::new();
        for key in ["name", "cniVersion"] {
            if let Some(value) = raw.get(key) {
                list.insert(key.to_owned(), value.clone());
            }
        }
        list.insert("plugins".to_owned(), json!([raw]));
        Self::from_list(Value::Object(list).to_string().as_bytes())
    }

    /// Adds the plugins of `<name>/*.conf` in the same directory as the file (since libcni 1.3). They are added to
    /// `bytes` as well: the cached config must be enough to detach the sandbox when those files are gone.
    fn add_plugins_beside(&mut self, file: &Path) -> Result<(), InvalidConfig> {
        let invalid = |file: &Path, reason: String| InvalidConfig::new(file, reason);
        let mut raw = object(&self.bytes).map_err(|reason| invalid(file, reason))?;
        if flag(&raw, "loadOnlyInlinedPlugins").map_err(|reason| invalid(file, reason))? {
            return Ok(());
        }
        let dir = file.with_file_name(&self.name);
        for file in files(&dir, &["conf"]).map_err(|error| invalid(&dir, error.to_string()))? {
            let plugin = read::regular(&file, LARGEST_FILE).map_err(|error| error.to_string());
            let plugin = plugin.and_then(|bytes| PluginConfig::parse(&Value::Object(object(&bytes)?)));
            self.plugins.push(plugin.map_err(|reason| invalid(&file, reason))?);
        }
        let all: Vec<_> = self.plugins.iter().map(|plugin| Value::Object(plugin.raw.clone())).collect();
        if raw.get("plugins").and_then(Value::as_array) != Some(&all) {
            raw.insert("plugins".to_owned(), Value::Array(all));
            raw.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
            self.bytes = Value::Object(raw).to_string().into_bytes();
        }
        Ok(())
    }
}

impl PluginConfig {
    fn parse(value: &Value) -> Result<Self, String> {
        let raw = value.as_object().ok_or("it is not an object")?.clone();
        let kind = text(&raw, "type")?.filter(|kind| !kind.is_empty()).ok_or("it has no \"type\"")?;
        // The type is appended to a directory and executed.
        if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
            return Err(format!("type {kind:?} is not a file name"));
        }
        let capabilities = match raw.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(all)) => {
                if all.values().any(|wanted| !wanted.is_boolean()) {
                    return Err("\"capabilities\" are not all true or false".to_owned());
                }
                all.iter().filter(|(_, wanted)| **wanted == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
            }
            Some(_) => return Err("\"capabilities\" is not an object".to_owned()),
        };
        Ok(Self { kind, capabilities, raw })
    }
}

impl InvalidConfig {
    fn new(file: &Path, reason: impl ToString) -> Self {
        Self { file: file.to_owned(), reason: reason.to_string() }
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(str::parse::<u32>);
        let mut part = || parts.next().transpose().ok().flatten();
        // "1.1" means 1.1.0, as in libcni.
        let version = part().map(|major| Self(major, part().unwrap_or(0), part().unwrap_or(0)));
        version.ok_or_else(|| format!("{text:?} is not a version of the CNI spec"))
    }
}

/// Chooses the newest version that both the config and this module support.
fn choose_version(raw: &Map<String, Value>) -> Result<(String, Version), String> {
    let mut offered: Vec<String> = text(raw, "cniVersion")?.filter(|version| !version.is_empty()).into_iter().collect();
    match raw.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) => {
            for version in all {
                offered.push(version.as_str().ok_or("\"cniVersions\" is not a list of strings")?.to_owned());
            }
        }
        Some(_) => return Err("\"cniVersions\" is not a list of strings".to_owned()),
    }
    if offered.is_empty() {
        offered.push(DEFAULT_VERSION.to_owned());
    }
    let mut known = Vec::new();
    for text in &offered {
        let version = Version::parse(text)?;
        if version <= NEWEST {
            known.push((version, text));
        }
    }
    let best = known.into_iter().max_by_key(|(version, _)| *version);
    best.map(|(version, text)| (text.clone(), version))
        .ok_or_else(|| format!("cniVersion {} is newer than 1.1.0", offered.join(", ")))
}

/// Parses a JSON object. The error gives the position but no content, because a config may contain a secret.
fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(raw)) => Ok(raw),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON at line {} column {}", error.line(), error.column())),
    }
}

fn text(raw: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match raw.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{key:?} is not a string")),
    }
}

/// A boolean; libcni accepts it as a string too.
fn flag(raw: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match raw.get(key) {
        None | Some(Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("{key:?} is neither true nor false")),
    }
}

/// The spec's rule for names, which also makes them safe in a path.
fn valid_name(name: &str) -> Result<(), String> {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let fits = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(rest);
    if fits { Ok(()) } else { Err(format!("name {name:?} has other characters than a-z A-Z 0-9 _ . -")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}"#;

    fn list(extra: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::from_list(format!(r#"{{"name":"n","plugins":[{{"type":"bridge"}}],{extra}}}"#).as_bytes())
    }

    #[test]
    fn the_first_file_by_name_is_taken_whatever_its_extension() {
        let dir = dir(&[
            ("20-b.conflist", LIST),
            ("10-a.conf", r#"{"name":"single","type":"bridge","mtu":9000}"#),
            ("05-readme.txt", "no config"),
            ("00-dir.conflist/x", ""),
        ]);
        let found = load(dir.path(), 1).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].cni_version.as_str()), ("single", "0.1.0"));
        assert_eq!(found[0].plugins[0].raw["mtu"], 9000);
        let again = NetworkConfig::from_list(&found[0].bytes).unwrap();
        assert_eq!(again.plugins[0].raw, found[0].plugins[0].raw, "the cache's bytes are a list");
        assert_eq!(load(dir.path(), 0).unwrap().len(), 2);
        assert!(load(&dir.path().join("absent"), 1).unwrap().is_empty());
    }

    #[test]
    fn an_invalid_first_file_is_named_and_not_passed_over() {
        let dir = dir(&[("10-broken.conflist", "{\"name\": "), ("20-good.conflist", LIST)]);
        let error = load(dir.path(), 1).unwrap_err();
        assert!(error.file.ends_with("10-broken.conflist"));
        assert_eq!(error.reason, "it is not JSON at line 1 column 9");
    }

    #[test]
    fn what_is_no_config_says_why() {
        for (text, reason) in [
            (r#"{"plugins":[{"type":"a"}]}"#, "it has no \"name\""),
            (r#"{"name":"../x","plugins":[{"type":"a"}]}"#, "other characters"),
            (r#"{"name":"n","plugins":[]}"#, "its list of plugins is empty"),
            (r#"{"name":"n"}"#, "it has no plugins"),
            (r#"{"name":"n","plugins":{}}"#, "\"plugins\" is not a list"),
            (r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, "plugin 1: it has no \"type\""),
            (r#"{"name":"n","plugins":[{"type":"../a"}]}"#, "is not a file name"),
            (r#"{"name":"n","plugins":[{"type":"a","capabilities":{"x":1}}]}"#, "not all true or false"),
            (r#"{"name":"n","cniVersion":"2.0.0","plugins":[{"type":"a"}]}"#, "newer than 1.1.0"),
            (r#"{"name":"n","cniVersion":"new","plugins":[{"type":"a"}]}"#, "is not a version"),
            (r#"{"name":"n","disableCheck":3,"plugins":[{"type":"a"}]}"#, "neither true nor false"),
            ("[]", "is not a JSON object"),
        ] {
            let dir = dir(&[("10-x.conflist", text)]);
            let error = load(dir.path(), 1).unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
        let dir = dir(&[("10-x.conf", LIST)]);
        assert!(load(dir.path(), 1).unwrap_err().reason.contains("belongs in a .conflist file"));
        fs::write(dir.path().join("00-large.conf"), vec![b' '; usize::try_from(LARGEST_FILE).unwrap() + 1]).unwrap();
        assert!(load(dir.path(), 1).unwrap_err().reason.contains("larger than"));
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let chosen = |extra: &str| list(extra).unwrap().cni_version;
        assert_eq!(chosen(r#""cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","2.0.0"]"#), "1.1.0");
        assert_eq!(chosen(r#""cniVersion":"9.0.0","cniVersions":["0.3.1","1.0.0"]"#), "1.0.0");
        assert_eq!(chosen(r#""cniVersion":"1.1""#), "1.1");
        assert_eq!(chosen(r#""cniVersion":"""#), "0.1.0");
    }

    #[test]
    fn flags_may_be_texts() {
        let config = list(r#""disableCheck":"True","disableGC":"false""#).unwrap();
        assert!(config.disable_check && !config.disable_gc);
    }

    #[test]
    fn plugins_in_files_of_their_own_join_the_chain_and_the_cached_bytes() {
        let files = [("10-a.conflist", LIST), ("a/20-x.conf", r#"{"type":"x"}"#), ("a/10-y.conf", r#"{"type":"y"}"#)];
        let found = load(dir(&files).path(), 1).unwrap();
        let kinds = |config: &NetworkConfig| config.plugins.iter().map(|p| p.kind.clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&found[0]), ["bridge", "y", "x"]);
        assert_eq!(kinds(&NetworkConfig::from_list(&found[0].bytes).unwrap()), ["bridge", "y", "x"]);
        let inlined = LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
        let files = [("10-a.conflist", inlined.as_str()), files[1]];
        assert_eq!(kinds(&load(dir(&files).path(), 1).unwrap()[0]), ["bridge"]);
    }
}
