//! Applies the edits of CDI devices to a spec.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxDevice, LinuxIntelRdt, LinuxNetDevice, Mount, Process, Spec};

use super::env::Env;
use super::{devices, linux_of, process_of};
use crate::cdi::{self, ContainerEdits, DeviceNode, HookPoint, IntelRdt};

/// Applies the edits on top of all that the request contains. `rules` says whether the cgroup needs rules for device
/// nodes; the cgroup of a privileged container allows all devices.
pub(super) fn apply(spec: &mut Spec, edits: &ContainerEdits, rules: bool) {
    let process = process_of(spec);
    env(process, &edits.env);
    groups(process, &edits.additional_gids);
    let owner = (process.user().uid(), process.user().gid());
    let linux = linux_of(spec);
    device_nodes(linux, &edits.device_nodes, owner, rules);
    for net in &edits.net_devices {
        let mut device = LinuxNetDevice::default();
        device.set_name(Some(net.name.clone()));
        linux.net_devices_mut().get_or_insert_default().insert(net.host_interface_name.clone(), device);
    }
    if let Some(rdt) = &edits.intel_rdt {
        linux.set_intel_rdt(Some(intel_rdt(rdt)));
    }
    if !edits.mounts.is_empty() {
        mounts(spec.mounts_mut().get_or_insert_default(), &edits.mounts);
    }
    for hook in &edits.hooks {
        add_hook(spec.hooks_mut().get_or_insert_default(), hook);
    }
}

fn env(process: &mut Process, added: &[String]) {
    // The usual case: without additions, the environment need not be scanned.
    if added.is_empty() {
        return;
    }
    let mut env: Env = process.env_mut().take().unwrap_or_default().into_iter().collect();
    env.extend(added.iter().cloned());
    process.set_env(Some(env.into_vec()));
}

fn groups(process: &mut Process, added: &[u32]) {
    let groups = process.user_mut().additional_gids_mut().get_or_insert_default();
    let mut seen: HashSet<u32> = groups.iter().copied().collect();
    // A vendor who means "no group" writes 0 (the Go library drops it too).
    groups.extend(added.iter().filter(|group| **group != 0 && seen.insert(**group)));
}

/// Each node replaces an earlier device with the same path. A class may have thousands of devices, so a map is used: no
/// device is searched for among all others.
fn device_nodes(linux: &mut Linux, nodes: &[DeviceNode], owner: (u32, u32), rules: bool) {
    if nodes.is_empty() {
        return;
    }
    let last = last_of(nodes.iter().map(|node| node.path.as_path()));
    linux.devices_mut().get_or_insert_default().retain(|other| !last.contains_key(other.path().as_path()));
    for (index, node) in nodes.iter().enumerate() {
        device(linux, node, owner, (last[node.path.as_path()] == index, rules));
    }
}

/// The index of the last entry with each path.
fn last_of<'a>(paths: impl Iterator<Item = &'a Path>) -> HashMap<&'a Path, usize> {
    paths.enumerate().map(|(index, path)| (path, index)).collect()
}

/// `(made, rules)`: a node whose path a later node has too only adds a rule to the cgroup.
fn device(linux: &mut Linux, node: &DeviceNode, (uid, gid): (u32, u32), (made, rules): (bool, bool)) {
    let kind = node.kind.chars().next().unwrap_or('c');
    let mut device = LinuxDevice::default();
    device.set_path(node.path.clone()).set_typ(devices::kind(kind)).set_major(node.major).set_minor(node.minor);
    device.set_file_mode(node.file_mode);
    // Otherwise a process that is not root could not open the device that its container requested.
    device.set_uid(node.uid.or((uid != 0).then_some(uid))).set_gid(node.gid.or((gid != 0).then_some(gid)));
    if made {
        linux.devices_mut().get_or_insert_default().push(device);
    }
    if rules && kind != 'p' {
        let access = if node.permissions.is_empty() { devices::ALL } else { &node.permissions };
        // cgroups know `u` as `c`.
        let kind = if kind == 'u' { 'c' } else { kind };
        let rule = devices::rule(true, Some(devices::kind(kind)), Some((node.major, node.minor)), access);
        let resources = linux.resources_mut().get_or_insert_default();
        resources.devices_mut().get_or_insert_default().push(rule);
    }
}

fn intel_rdt(wanted: &IntelRdt) -> LinuxIntelRdt {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(text(&wanted.clos_id)).set_l3_cache_schema(text(&wanted.l3_cache_schema));
    rdt.set_mem_bw_schema(text(&wanted.mem_bw_schema));
    rdt.set_schemata(Some(wanted.schemata.clone()).filter(|lines| !lines.is_empty()));
    rdt.set_enable_monitoring((wanted.enable_monitoring || wanted.enable_cmt || wanted.enable_mbm).then_some(true));
    rdt
}

/// Each mount replaces an earlier one with the same path. Then all are sorted, parents before children; the sort is
/// stable.
fn mounts(all: &mut Vec<Mount>, added: &[cdi::Mount]) {
    let last = last_of(added.iter().map(|mount| mount.container_path.as_path()));
    all.retain(|other| !last.contains_key(other.destination().as_path()));
    for (index, mount) in added.iter().enumerate() {
        if last[mount.container_path.as_path()] != index {
            continue;
        }
        let mut made = Mount::default();
        made.set_destination(mount.container_path.clone()).set_source(Some(mount.host_path.clone()));
        made.set_typ(Some(mount.kind.clone()).filter(|kind| !kind.is_empty())).set_options(Some(mount.options.clone()));
        all.push(made);
    }
    all.sort_by_key(|mount| depth(mount.destination()));
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn add_hook(hooks: &mut Hooks, wanted: &cdi::Hook) {
    let list = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let mut hook = Hook::default();
    hook.set_path(wanted.path.clone()).set_args(list(&wanted.args)).set_env(list(&wanted.env));
    hook.set_timeout(wanted.timeout);
    #[allow(deprecated, reason = "specs of NVIDIA's tools still have prestart hooks")]
    let of_point = match wanted.hook_name {
        HookPoint::Prestart => hooks.prestart_mut(),
        HookPoint::CreateRuntime => hooks.create_runtime_mut(),
        HookPoint::CreateContainer => hooks.create_container_mut(),
        HookPoint::StartContainer => hooks.start_container_mut(),
        HookPoint::Poststart => hooks.poststart_mut(),
        HookPoint::Poststop => hooks.poststop_mut(),
    };
    of_point.get_or_insert_default().push(hook);
}
