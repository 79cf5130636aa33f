//! A runtime's options, as containerd passes them to the shim.

use std::collections::BTreeMap;

use prost::Message;

use super::Any;

mod runc {
    #![allow(missing_docs, dead_code, reason = "generated code")]
    #![allow(clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/containerd.runc.v1.rs"));
}
mod generic {
    #![allow(missing_docs, dead_code, reason = "generated code")]
    #![allow(clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/runtimeoptions.v1.rs"));
}

/// Runtime type of containerd's shim for runc.
pub const RUNC: &str = "io.containerd.runc.v2";
/// The options of the runtime type [`RUNC`].
pub const RUNC_OPTIONS: [&str; 8] = [
    "SystemdCgroup",
    "BinaryName",
    "Root",
    "NoPivotRoot",
    "NoNewKeyring",
    "ShimCgroup",
    "CriuImagePath",
    "CriuWorkPath",
];
/// The options of other runtime types.
pub const OTHER_OPTIONS: [&str; 3] = ["TypeUrl", "ConfigPath", "ConfigBody"];
/// Name of the protobuf message of runc's options.
const RUNC_MESSAGE: &str = "containerd.runc.v1.Options";

/// Name of the protobuf message of other runtimes' options.
const GENERIC_MESSAGE: &str = "runtimeoptions.v1.Options";

/// The options of a runtime handler, with the names of containerd's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options(Any);

/// An option that the runtime type does not have, or whose value cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("option {key}: {problem}")]
pub struct OptionsError {
    pub key: String,
    pub problem: String,
}

impl Options {
    /// Builds the message for a runtime type from the keys of its options table.
    ///
    /// # Errors
    /// [`OptionsError`] names the key that the runtime type does not have, or whose value cannot be used.
    pub fn new(runtime_type: &str, table: &BTreeMap<String, toml::Value>) -> Result<Self, OptionsError> {
        if runtime_type == RUNC { runc_options(table) } else { generic_options(runtime_type, table) }
    }

    /// The options as containerd's records and calls take them.
    #[must_use]
    pub fn any(&self) -> Any {
        self.0.clone()
    }

    /// The options for a container in a user namespace. `uid` and `gid` are the user and group of its process on the
    /// host. They must own runc's pipes, or the process could not open its own /dev/stdout. Other runtimes have no such
    /// option.
    #[must_use]
    pub fn any_for(&self, uid: u32, gid: u32) -> Any {
        let mut any = self.any();
        if any.type_url == RUNC_MESSAGE
            && let Ok(options) = runc::Options::decode(any.value.as_slice())
        {
            any.value = runc::Options { io_uid: uid, io_gid: gid, ..options }.encode_to_vec();
        }
        any
    }

    /// The program that the runtime's shim executes: a path, or a name that is searched in the directories of PATH. `None`
    /// if the options do not say that.
    #[must_use]
    pub fn program(&self) -> Option<String> {
        let options = (self.0.type_url == RUNC_MESSAGE).then(|| runc::Options::decode(self.0.value.as_slice()));
        let name = options?.ok()?.binary_name;
        Some(if name.is_empty() { "runc".to_owned() } else { name })
    }

    /// The runtime's own configuration file, if the options name one.
    #[must_use]
    pub fn config_path(&self) -> Option<String> {
        let options = (self.0.type_url == GENERIC_MESSAGE).then(|| generic::Options::decode(self.0.value.as_slice()));
        Some(options?.ok()?.config_path).filter(|path| !path.is_empty())
    }
}

fn runc_options(table: &BTreeMap<String, toml::Value>) -> Result<Options, OptionsError> {
    let mut options = runc::Options::default();
    for (key, value) in table {
        known(key, RUNC, &RUNC_OPTIONS)?;
        match key.as_str() {
            "SystemdCgroup" => options.systemd_cgroup = boolean(key, value)?,
            "NoPivotRoot" => options.no_pivot_root = boolean(key, value)?,
            "NoNewKeyring" => options.no_new_keyring = boolean(key, value)?,
            "BinaryName" => options.binary_name = binary(key, value)?,
            "Root" => options.root = path(key, value)?,
            "ShimCgroup" => options.shim_cgroup = text(key, value)?,
            "CriuImagePath" => options.criu_image_path = path(key, value)?,
            "CriuWorkPath" => options.criu_work_path = path(key, value)?,
            _ => {}
        }
    }
    Ok(Options(Any { type_url: RUNC_MESSAGE.to_owned(), value: options.encode_to_vec() }))
}

fn generic_options(kind: &str, table: &BTreeMap<String, toml::Value>) -> Result<Options, OptionsError> {
    let mut options = generic::Options::default();
    for (key, value) in table {
        known(key, kind, &OTHER_OPTIONS)?;
        match key.as_str() {
            "TypeUrl" => options.type_url = text(key, value)?,
            "ConfigPath" => options.config_path = path(key, value)?,
            "ConfigBody" => options.config_body = text(key, value)?.into_bytes(),
            _ => {}
        }
    }
    Ok(Options(Any { type_url: GENERIC_MESSAGE.to_owned(), value: options.encode_to_vec() }))
}

fn wrong(key: &str, problem: impl Into<String>) -> OptionsError {
    OptionsError { key: key.to_owned(), problem: problem.into() }
}

fn known(key: &str, kind: &str, options: &[&str]) -> Result<(), OptionsError> {
    let problem = || format!("the runtime type {kind} has no such option; it has {}", options.join(", "));
    if options.contains(&key) { Ok(()) } else { Err(wrong(key, problem())) }
}

fn boolean(key: &str, value: &toml::Value) -> Result<bool, OptionsError> {
    value.as_bool().ok_or_else(|| wrong(key, "has to be true or false"))
}

fn text(key: &str, value: &toml::Value) -> Result<String, OptionsError> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "has to be a text in quotation marks"))
}

/// The shim resolves a relative path in a directory of its container, where nothing is. An empty text is no path.
fn path(key: &str, value: &toml::Value) -> Result<String, OptionsError> {
    let path = text(key, value)?;
    let is_usable = path.is_empty() || path.starts_with('/');
    if is_usable { Ok(path) } else { Err(wrong(key, format!("{path:?} is not an absolute path"))) }
}

fn binary(key: &str, value: &toml::Value) -> Result<String, OptionsError> {
    let name = text(key, value)?;
    let is_usable = name.starts_with('/') || !name.contains('/');
    let problem = "is neither an absolute path nor the name of a program in containerd's PATH";
    if is_usable { Ok(name) } else { Err(wrong(key, format!("{name:?} {problem}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_the_pipes_is_added_to_runcs_options_alone() {
        let table = BTreeMap::from([("BinaryName".to_owned(), toml::Value::from("crun"))]);
        let any = Options::new(RUNC, &table).unwrap().any_for(70_033, 80_044);
        let options = runc::Options::decode(any.value.as_slice()).unwrap();
        assert_eq!((options.io_uid, options.io_gid, options.binary_name.as_str()), (70_033, 80_044, "crun"));
        let other = Options::new("io.containerd.kata.v2", &BTreeMap::new()).unwrap();
        assert_eq!(other.any_for(1, 2), other.any());
    }

    #[test]
    fn every_option_of_the_lists_is_passed_on() {
        for (kind, names) in [(RUNC, RUNC_OPTIONS.as_slice()), ("io.containerd.kata.v2", OTHER_OPTIONS.as_slice())] {
            let none = Options::new(kind, &BTreeMap::new()).unwrap();
            for name in names {
                let with = |value: toml::Value| Options::new(kind, &BTreeMap::from([((*name).to_owned(), value)]));
                let options = with("/x".into()).or_else(|_| with(true.into())).unwrap();
                assert_ne!(options, none, "{name}");
            }
            let error = Options::new(kind, &BTreeMap::from([("Other".to_owned(), true.into())])).unwrap_err();
            assert!(error.key == "Other" && names.iter().all(|name| error.problem.contains(name)), "{error}");
        }
    }

    #[test]
    fn what_the_options_name_is_found_in_them() {
        let options = |kind: &str, key: &str, value: &str| {
            Options::new(kind, &BTreeMap::from([(key.to_owned(), value.into())])).unwrap()
        };
        let runc = options(RUNC, "BinaryName", "/usr/bin/crun");
        assert_eq!((runc.program().as_deref(), runc.config_path()), (Some("/usr/bin/crun"), None));
        assert_eq!(options(RUNC, "BinaryName", "").program().as_deref(), Some("runc"));
        let kata = options("io.containerd.kata.v2", "ConfigPath", "/etc/kata.toml");
        assert_eq!((kata.program(), kata.config_path().as_deref()), (None, Some("/etc/kata.toml")));
    }
}
