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
/// Name of the protobuf message of its options.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// The options of a runtime handler, with the names of containerd's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options(Any);

/// An option that the runtime type does not have, or whose value has the wrong type.
#[derive(Debug, Clone, thiserror::Error)]
#[error("option {key}: {problem}")]
pub struct OptionsError {
    key: String,
    problem: &'static str,
}

impl Options {
    /// Builds the message for a runtime type from the keys of its options table.
    ///
    /// # Errors
    /// [`OptionsError`] names the key that the runtime type does not have, or whose value has the wrong type.
    pub fn new(runtime_type: &str, table: &BTreeMap<String, toml::Value>) -> Result<Self, OptionsError> {
        if runtime_type == RUNC { runc_options(table) } else { generic_options(table) }
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
        if any.type_url == RUNC_OPTIONS
            && let Ok(options) = runc::Options::decode(any.value.as_slice())
        {
            any.value = runc::Options { io_uid: uid, io_gid: gid, ..options }.encode_to_vec();
        }
        any
    }
}

fn runc_options(table: &BTreeMap<String, toml::Value>) -> Result<Options, OptionsError> {
    let mut options = runc::Options::default();
    for (key, value) in table {
        match key.as_str() {
            "SystemdCgroup" => options.systemd_cgroup = boolean(key, value)?,
            "NoPivotRoot" => options.no_pivot_root = boolean(key, value)?,
            "NoNewKeyring" => options.no_new_keyring = boolean(key, value)?,
            "BinaryName" => options.binary_name = text(key, value)?,
            "Root" => options.root = text(key, value)?,
            "ShimCgroup" => options.shim_cgroup = text(key, value)?,
            "CriuImagePath" => options.criu_image_path = text(key, value)?,
            "CriuWorkPath" => options.criu_work_path = text(key, value)?,
            _ => return Err(OptionsError { key: key.clone(), problem: "io.containerd.runc.v2 has no such option" }),
        }
    }
    Ok(Options(Any { type_url: RUNC_OPTIONS.to_owned(), value: options.encode_to_vec() }))
}

fn generic_options(table: &BTreeMap<String, toml::Value>) -> Result<Options, OptionsError> {
    let mut options = generic::Options::default();
    for (key, value) in table {
        match key.as_str() {
            "TypeUrl" => options.type_url = text(key, value)?,
            "ConfigPath" => options.config_path = text(key, value)?,
            "ConfigBody" => options.config_body = text(key, value)?.into_bytes(),
            _ => return Err(OptionsError { key: key.clone(), problem: "has to be TypeUrl, ConfigPath or ConfigBody" }),
        }
    }
    Ok(Options(Any { type_url: "runtimeoptions.v1.Options".to_owned(), value: options.encode_to_vec() }))
}

fn boolean(key: &str, value: &toml::Value) -> Result<bool, OptionsError> {
    value.as_bool().ok_or(OptionsError { key: key.to_owned(), problem: "has to be true or false" })
}

fn text(key: &str, value: &toml::Value) -> Result<String, OptionsError> {
    value.as_str().map(str::to_owned).ok_or(OptionsError { key: key.to_owned(), problem: "has to be a string" })
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
}
