//! The user namespace of a pod: its mapping, and which processes may run in it.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::{Error, is_node};
use crate::api::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};
use crate::userns::{Mapping, Range};

const OPTIONS: &str = "config.linux.security_context.namespace_options";
const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";

/// The mapping that a pod or a container requests; `None` for the node's user namespace.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn user_namespace(options: &NamespaceOption) -> Result<Option<Mapping>, Error> {
    let Some(user) = &options.userns_options else { return Ok(None) };
    match NamespaceMode::try_from(user.mode) {
        Ok(NamespaceMode::Pod) => mapping(user).map(Some),
        Ok(NamespaceMode::Node) if user.uids.is_empty() && user.gids.is_empty() => Ok(None),
        Ok(NamespaceMode::Node) => Err(Error::invalid(FIELD, "mappings go with mode POD only")),
        Ok(NamespaceMode::Container | NamespaceMode::Target) | Err(_) => {
            Err(Error::invalid(format!("{FIELD}.mode"), "has to be POD or NODE"))
        }
    }
}

fn mapping(user: &UserNamespace) -> Result<Mapping, Error> {
    let mapping = Mapping { uids: range("uids", &user.uids)?, gids: range("gids", &user.gids)? };
    // Snapshotters get only one length (containerd's WithRemapperLabels).
    if mapping.uids.length != mapping.gids.length {
        return Err(Error::invalid(format!("{FIELD}.gids[0].length"), "is not that of uids"));
    }
    Ok(mapping)
}

fn range(name: &str, mappings: &[IdMapping]) -> Result<Range, Error> {
    let [one] = mappings else {
        let problem = format!("has {} mappings, and mode POD takes exactly one", mappings.len());
        return Err(Error::invalid(format!("{FIELD}.{name}"), problem));
    };
    let refused = |part: &str, problem: &str| Err(Error::invalid(format!("{FIELD}.{name}[0].{part}"), problem));
    if one.container_id != 0 {
        return refused("container_id", "has to be 0: root has to be mapped");
    }
    if one.length == 0 {
        return refused("length", "has to be more than 0");
    }
    // The largest number means "no id".
    if one.host_id.checked_add(one.length).is_none() {
        return refused("host_id", "and length go past the last id");
    }
    Ok(Range { host: one.host_id, length: one.length })
}

/// Refuses the node's PID and IPC namespaces: in a user namespace of the pod's own, no process may mount their /proc
/// and /dev/mqueue.
pub(super) fn check_others(options: &NamespaceOption) -> Result<(), Error> {
    for (name, mode) in [("pid", options.pid()), ("ipc", options.ipc())] {
        if is_node(mode) {
            let problem = "NODE does not go with a user namespace of the pod's";
            return Err(Error::invalid(format!("{OPTIONS}.{name}"), problem));
        }
    }
    Ok(())
}

/// A container must be in the user namespace of its pod, and its config has to say so.
pub(super) fn check_same(container: Option<Mapping>, sandbox: Option<Mapping>) -> Result<(), Error> {
    if container == sandbox {
        return Ok(());
    }
    Err(Error::invalid(FIELD, "differs from that of the sandbox"))
}

/// Refuses a process whose user or groups are not mapped in the namespace.
pub(super) fn check_mapped(mapping: Option<Mapping>, uid: u32, gid: u32, groups: &[u32]) -> Result<(), Error> {
    let Some(mapping) = mapping else { return Ok(()) };
    if mapping.host_uid(uid).is_none() {
        return Err(Error::invalid(format!("{FIELD}.uids"), format!("do not map the process's user {uid}")));
    }
    let mut all = groups.iter().chain([&gid]);
    match all.find(|group| mapping.host_gid(**group).is_none()) {
        Some(group) => Err(Error::invalid(format!("{FIELD}.gids"), format!("do not map the process's group {group}"))),
        None => Ok(()),
    }
}

/// The mapping in OCI's form.
pub(super) fn oci(range: Range) -> Vec<LinuxIdMapping> {
    vec![one(range.host, 0, range.length)]
}

/// Mappings in OCI's form; a mount may have more than one.
pub(super) fn oci_of(mappings: &[IdMapping]) -> Vec<LinuxIdMapping> {
    mappings.iter().map(|mapping| one(mapping.host_id, mapping.container_id, mapping.length)).collect()
}

fn one(host: u32, container: u32, length: u32) -> LinuxIdMapping {
    let mapping = LinuxIdMappingBuilder::default().host_id(host).container_id(container).size(length);
    // This fails only for a field without a value, and all have one.
    mapping.build().unwrap_or_default()
}
