//! A CDI spec as a file has it. An unknown field is an error: an edit that is dropped would make
//! a container that starts and lacks something.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::request;
use crate::sys::read;

/// Largest file that is read; one for eight GPUs has 100 KB.
const LARGEST: u64 = 16 << 20;

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    /// Where it was read.
    #[serde(skip)]
    pub path: PathBuf,
    cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub devices: Vec<Device>,
    /// For whoever has one of the devices.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// One device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What changes in an OCI spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerEdits {
    /// `KEY=value`; each takes the place of the same key.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces of the host.
    pub net_devices: Vec<NetDevice>,
    /// Programs that the runtime runs.
    pub hooks: Vec<Hook>,
    /// Mounts; each takes the place of another at its path.
    pub mounts: Vec<Mount>,
    /// Cache and memory bandwidth.
    pub intel_rdt: Option<IntelRdt>,
    /// Further groups of the process.
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    /// On the host; `path` when it is empty.
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`; what the host has when it is empty.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number, or what the host has.
    pub major: i64,
    /// Minor number, or what the host has.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Some of `rwm`, all when it is empty.
    pub permissions: String,
    /// Owner; the container's user when there is none.
    pub uid: Option<u32>,
    /// Group; the container's when there is none.
    pub gid: Option<u32>,
}

/// A network interface that moves into the container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    /// On the host.
    pub host_interface_name: String,
    /// In the container.
    pub name: String,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// On the host.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// As in mount(8); runtimes look for `bind` in the options too.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// As in mount(8).
    #[serde(default)]
    pub options: Vec<String>,
}

/// When a hook runs.
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

/// A program that the runtime runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When.
    pub hook_name: HookPoint,
    /// The program.
    pub path: PathBuf,
    /// With its own name first.
    #[serde(default)]
    pub args: Vec<String>,
    /// `KEY=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// Intel's resource director.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(rename = "closID")]
    pub clos_id: String,
    /// L3 cache.
    pub l3_cache_schema: String,
    /// Memory bandwidth.
    pub mem_bw_schema: String,
    /// Lines of the schemata file.
    pub schemata: Vec<String>,
    /// A monitoring group of its own.
    pub enable_monitoring: bool,
    /// Of specs before 1.1.0; runtimes do not look at it any more.
    #[serde(rename = "enableCMT")]
    pub enable_cmt: bool,
    /// Likewise.
    #[serde(rename = "enableMBM")]
    pub enable_mbm: bool,
}

impl ContainerEdits {
    /// Adds another's; of two of what there is one, the later counts.
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
            return Err(format!("env {bad:?} is no KEY=value"));
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
    /// Reads and checks a file; the error is for an error's text.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = read::text(path, LARGEST).map_err(|error| error.to_string())?;
        let mut document = Self::parse(&text, path.extension().is_some_and(|end| end == "json"))?;
        path.clone_into(&mut document.path);
        Ok(document)
    }

    /// Parses and checks a file's text, which is YAML unless it is JSON.
    pub(super) fn parse(text: &str, json: bool) -> Result<Self, String> {
        let document: Self = if json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            // Vendors write modes as Go's YAML reads them: 0660 is octal.
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
                return Err(format!("device {:?} is there twice", device.name));
            }
            device.container_edits.check().map_err(|problem| format!("device {:?}: {problem}", device.name))?;
        }
        Ok(())
    }
}
