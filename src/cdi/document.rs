//! The content of a CDI spec file. An unknown field is an error: if an edit were ignored, the container would start
//! without something it needs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::request;
use crate::sys::read;

/// Largest file that is read; a file for eight GPUs has 100 KB.
const LARGEST: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    /// The file it was read from.
    #[serde(skip)]
    pub path: PathBuf,
    cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub devices: Vec<Device>,
    /// Edits for every container that uses one of the devices.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// Changes to an OCI spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerEdits {
    /// `KEY=value`; each replaces the variable with the same key.
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces of the host that move into the container.
    pub net_devices: Vec<NetDevice>,
    pub hooks: Vec<Hook>,
    /// Each replaces another mount at the same path.
    pub mounts: Vec<Mount>,
    /// Allocation of cache and memory bandwidth.
    pub intel_rdt: Option<IntelRdt>,
    /// Supplementary groups of the process.
    pub additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: PathBuf,
    /// Path on the host; the same as `path` if empty.
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`; if empty, the type of the host's device.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number; if 0, that of the host's device.
    pub major: i64,
    /// Minor number; taken from the host together with the major number.
    pub minor: i64,
    /// Permission bits of the node.
    pub file_mode: Option<u32>,
    /// A subset of `rwm`; all if empty.
    pub permissions: String,
    /// Owner; the container's user if absent.
    pub uid: Option<u32>,
    /// Group; the container's group if absent.
    pub gid: Option<u32>,
}

/// A network interface that moves into the container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    /// Name on the host.
    pub host_interface_name: String,
    /// Name in the container.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// As in mount(8); runtimes look for `bind` in the options as well.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// As in mount(8).
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the OCI runtime spec's own names")]
pub enum HookPoint {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// A program that the runtime runs during the life cycle of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    pub hook_name: HookPoint,
    pub path: PathBuf,
    /// The arguments, including the program's name as the first one.
    #[serde(default)]
    pub args: Vec<String>,
    /// `KEY=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// In seconds.
    pub timeout: Option<i64>,
}

/// Settings of Intel Resource Director Technology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(rename = "closID")]
    pub clos_id: String,
    /// Schema of the L3 cache.
    pub l3_cache_schema: String,
    /// Schema of the memory bandwidth.
    pub mem_bw_schema: String,
    /// Lines for the schemata file.
    pub schemata: Vec<String>,
    /// Whether to create a monitoring group for the container.
    pub enable_monitoring: bool,
    /// From specs before 1.1.0; runtimes no longer use it.
    #[serde(rename = "enableCMT")]
    pub enable_cmt: bool,
    /// From specs before 1.1.0; runtimes no longer use it.
    #[serde(rename = "enableMBM")]
    pub enable_mbm: bool,
}

impl ContainerEdits {
    /// Appends the edits of `other`. A value that exists only once is replaced by that of `other`.
    pub(super) fn append(&mut self, other: &Self) {
        let other = other.clone();
        self.env.extend(other.env);
        self.device_nodes.extend(other.device_nodes);
        self.net_devices.extend(other.net_devices);
        self.hooks.extend(other.hooks);
        self.mounts.extend(other.mounts);
        self.additional_gids.extend(other.additional_gids);
        if other.intel_rdt.is_some() {
            self.intel_rdt = other.intel_rdt;
        }
    }

    fn check(&self) -> Result<(), String> {
        if let Some(bad) = self.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("env {bad:?} is not KEY=value"));
        }
        for node in &self.device_nodes {
            let path = node.path.display();
            if !node.path.is_absolute() {
                return Err(format!("device node path {path:?} is not absolute"));
            }
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("device node {path}: {:?} is none of b, c, u and p", node.kind));
            }
            if let Some(other) = node.permissions.chars().find(|one| !"rwm".contains(*one)) {
                return Err(format!("device node {path}: {other:?} is none of r, w and m"));
            }
        }
        if let Some(bad) = self.mounts.iter().find(|mount| !mount.container_path.is_absolute()) {
            return Err(format!("mount path {:?} is not absolute", bad.container_path));
        }
        match self.hooks.iter().find(|hook| !hook.path.is_absolute()) {
            Some(bad) => Err(format!("hook path {:?} is not absolute", bad.path)),
            None => Ok(()),
        }
    }
}

impl Document {
    /// Reads and checks a file. The error is a description for an error message.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = read::text(path, LARGEST).map_err(|error| error.to_string())?;
        let mut document = Self::parse(&text, path.extension().is_some_and(|end| end == "json"))?;
        path.clone_into(&mut document.path);
        Ok(document)
    }

    /// Parses and checks the text of a file, which is YAML unless `json` is set.
    pub(super) fn parse(text: &str, json: bool) -> Result<Self, String> {
        let document: Self = if json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            // Vendors write modes as Go's YAML parser reads them: 0660 is octal.
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        if !["0.", "1."].iter().any(|major| self.cdi_version.starts_with(major)) {
            return Err(format!("cdiVersion {:?} is not known", self.cdi_version));
        }
        request::check_kind(&self.kind)?;
        self.container_edits.check()?;
        let mut names = HashSet::new();
        for device in &self.devices {
            request::check_device(&device.name)?;
            if !names.insert(&device.name) {
                return Err(format!("device {:?} is defined twice", device.name));
            }
            device.container_edits.check().map_err(|problem| format!("device {:?}: {problem}", device.name))?;
        }
        Ok(())
    }
}
