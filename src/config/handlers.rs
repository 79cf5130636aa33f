//! Runtime handlers: what the handler's name in a RuntimeClass stands for.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::file::Runtime;
use super::{Error, check};
use crate::containerd::Options;
use crate::network::ConfigDir;
use crate::sys::read;

const RUNC: &str = "io.containerd.runc.v2";

/// A resolved runtime handler.
#[derive(Debug, Clone)]
pub struct Handler {
    /// Its name in the configuration and in RunPodSandbox.
    pub name: String,
    /// containerd's runtime type.
    pub kind: String,
    /// Options that are passed to the shim.
    pub options: Options,
    /// Whether systemd creates its cgroups.
    pub systemd_cgroup: bool,
    /// The spec from which the specs of this handler start.
    pub base_spec: Option<Spec>,
    /// Its own snapshotter, if it has one.
    pub snapshotter: Option<String>,
    /// Its own CNI configs, if it has any.
    pub cni: Option<ConfigDir>,
    /// Whether a privileged container gets no host devices.
    pub privileged_without_host_devices: bool,
    /// Globs of pod annotations that are copied to specs.
    pub pod_annotations: Vec<String>,
    /// Globs of container annotations that are copied to specs.
    pub container_annotations: Vec<String>,
    /// Whether its pods run in virtual machines.
    pub virtual_machine: bool,
}

/// All runtime handlers, by name.
#[derive(Debug, Clone)]
pub struct Handlers {
    default: String,
    by_name: BTreeMap<String, Handler>,
}

impl Handlers {
    /// The handler with this name; the empty name means the default handler.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Handler> {
        let name = if name.is_empty() { &self.default } else { name };
        self.by_name.get(name)
    }

    /// The handler of pods that do not name one.
    #[must_use]
    pub fn default_handler(&self) -> &Handler {
        &self.by_name[&self.default]
    }

    /// All handlers, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Handler> {
        self.by_name.values()
    }

    pub(super) fn resolve(default: &str, table: &BTreeMap<String, Runtime>) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for (name, runtime) in table {
            by_name.insert(name.clone(), handler(name, runtime)?);
        }
        // Without a table there is one handler: runc with containerd's own defaults.
        if table.is_empty() {
            by_name.insert("runc".to_owned(), handler("runc", &Runtime::default())?);
        }
        let Some(chosen) = by_name.get(default) else {
            let names: Vec<&str> = by_name.keys().map(String::as_str).collect();
            let problem = format!("there is no [runtimes.{default}]; the runtime handlers are {}", names.join(", "));
            return Err(check::wrong("default_runtime", problem));
        };
        // kubelet asks for the cgroup driver only once (RuntimeConfig), so all handlers must have the same one.
        if let Some(other) = by_name.values().find(|other| other.systemd_cgroup != chosen.systemd_cgroup) {
            let problem = format!("differs from that of [runtimes.{default}]; kubelet knows one cgroup driver only");
            return Err(check::wrong(format!("runtimes.{}.options.SystemdCgroup", other.name), problem));
        }
        Ok(Self { default: default.to_owned(), by_name })
    }
}

fn handler(name: &str, runtime: &Runtime) -> Result<Handler, Error> {
    check_values(name, runtime)?;
    let kind = runtime.kind.clone().unwrap_or_else(|| RUNC.to_owned());
    let options = Options::new(&kind, &runtime.options)
        .map_err(|error| check::wrong(format!("runtimes.{name}.options.{}", error.key), error.problem))?;
    let base_spec = match &runtime.base_runtime_spec {
        Some(path) => Some(base_spec(name, path)?),
        None => None,
    };
    Ok(Handler {
        name: name.to_owned(),
        systemd_cgroup: runtime.options.get("SystemdCgroup").and_then(toml::Value::as_bool).unwrap_or(false),
        kind,
        options,
        base_spec,
        snapshotter: runtime.snapshotter.clone(),
        cni: cni(name, runtime)?,
        privileged_without_host_devices: runtime.privileged_without_host_devices,
        pod_annotations: runtime.pod_annotations.clone(),
        container_annotations: runtime.container_annotations.clone(),
        virtual_machine: runtime.virtual_machine,
    })
}

/// Refuses values that could never work.
fn check_values(name: &str, runtime: &Runtime) -> Result<(), Error> {
    let key = |key: &str| format!("runtimes.{name}.{key}");
    if name.is_empty() {
        return Err(check::wrong("runtimes", "a runtime handler has no name"));
    }
    if let Some(kind) = runtime.kind.as_deref().filter(|kind| !is_runtime_type(kind)) {
        let problem = format!("{kind:?} is neither a runtime type such as \"{RUNC}\" nor the absolute path of a shim");
        return Err(check::wrong(key("type"), problem));
    }
    let paths = [("base_runtime_spec", &runtime.base_runtime_spec), ("cni_conf_dir", &runtime.cni_conf_dir)];
    for (name, path) in paths {
        path.as_deref().map_or(Ok(()), |path| check::path(&key(name), path))?;
    }
    if let Some(snapshotter) = &runtime.snapshotter {
        check::snapshotter(&key("snapshotter"), snapshotter)?;
    }
    let globs =
        [("pod_annotations", &runtime.pod_annotations), ("container_annotations", &runtime.container_annotations)];
    for (name, globs) in globs {
        if let Some(problem) = globs.iter().find_map(|glob| problem_of_glob(glob)) {
            return Err(check::wrong(key(name), problem));
        }
    }
    Ok(())
}

/// containerd makes the name of the shim's binary from the last two parts of a type such as `io.containerd.runc.v2`.
fn is_runtime_type(kind: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(|c: char| c == '/' || c.is_whitespace());
    Path::new(kind).is_absolute() || kind.contains('.') && kind.split('.').all(is_part)
}

/// The keys of annotations have only some characters. A glob with another one is meant in a syntax that is not
/// supported, and would match nothing.
fn problem_of_glob(glob: &str) -> Option<String> {
    if glob.is_empty() {
        return Some("\"\" matches no annotation".to_owned());
    }
    let other = glob.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_./*".contains(*c))?;
    Some(format!("{glob:?} has {other:?}, which no annotation's key has; * is the only wildcard"))
}

fn cni(name: &str, runtime: &Runtime) -> Result<Option<ConfigDir>, Error> {
    match (&runtime.cni_conf_dir, runtime.cni_max_conf_num) {
        (Some(path), most) => Ok(Some(ConfigDir { path: path.clone(), limit: most.unwrap_or(1) })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(check::wrong(
            format!("runtimes.{name}.cni_max_conf_num"),
            "counts configs of a cni_conf_dir, which this handler does not have",
        )),
    }
}

/// Largest base spec, in bytes. The whole spec of a container must be smaller still, for containerd to take it with the
/// container's config.
const LARGEST_SPEC: u64 = 14 << 20;

fn base_spec(name: &str, path: &Path) -> Result<Spec, Error> {
    let wrong = |problem: String| {
        check::wrong(format!("runtimes.{name}.base_runtime_spec"), format!("{}: {problem}", path.display()))
    };
    let text = read::regular(path, LARGEST_SPEC).map_err(|error| wrong(error.to_string()))?;
    // serde would take the values of an array for the fields of the spec, in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong("not an OCI spec: it is not a JSON object".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| wrong(format!("not an OCI spec: {error}")))
}

#[cfg(test)]
mod tests;
