//! Namespaces: the sandbox makes or joins them, its containers join the sandbox's.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{ContainerInput, Error, is_node, is_privileged, userns};
use crate::api::v1::{NamespaceMode, NamespaceOption};

const FIELD: &str = "config.linux.security_context.namespace_options";

/// Refuses what cannot be for a pod.
pub(super) fn check_sandbox(options: &NamespaceOption) -> Result<(), Error> {
    if options.pid() == NamespaceMode::Target {
        return Err(Error::invalid(format!("{FIELD}.pid"), "TARGET is for containers only"));
    }
    check(options)?;
    if userns::user_namespace(options)?.is_some() {
        userns::check_others(options)?;
    }
    Ok(())
}

/// Refuses what cannot be for a container.
pub(super) fn check_container(options: &NamespaceOption, target: Option<u32>) -> Result<(), Error> {
    if options.pid() == NamespaceMode::Target && target.is_none() {
        return Err(Error::invalid(format!("{FIELD}.target_id"), "names no running container of the pod"));
    }
    check(options)
}

fn check(options: &NamespaceOption) -> Result<(), Error> {
    for (name, mode) in [("network", options.network()), ("ipc", options.ipc())] {
        match mode {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            // Neither has a meaning of its own for these (api.proto, NamespaceOption).
            NamespaceMode::Container | NamespaceMode::Target => {
                return Err(Error::invalid(format!("{FIELD}.{name}"), "has to be POD or NODE"));
            }
        }
    }
    Ok(())
}

/// The pause container makes all but the user and the network namespace, which are pinned before it.
pub(super) fn sandbox(options: &NamespaceOption, userns: Option<&Path>, netns: Option<&Path>) -> Vec<LinuxNamespace> {
    let mut all = vec![fresh(LinuxNamespaceType::Mount)];
    all.extend(userns.map(|path| joined(LinuxNamespaceType::User, path.to_owned())));
    if let Some(netns) = netns {
        all.push(joined(LinuxNamespaceType::Network, netns.to_owned()));
        all.push(fresh(LinuxNamespaceType::Uts));
    }
    if !is_node(options.ipc()) {
        all.push(fresh(LinuxNamespaceType::Ipc));
    }
    if !is_node(options.pid()) {
        all.push(fresh(LinuxNamespaceType::Pid));
    }
    all
}

/// A container joins the pod's, through the pause process. Whether the host's are used is the
/// pod's to say: NODE of a container alone joins the pod's too, as in containerd, or it would
/// see what its pod was not given.
pub(super) fn container(options: &NamespaceOption, input: &ContainerInput<'_>) -> Vec<LinuxNamespace> {
    let sandbox = input.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let sandbox = super::namespace_options(sandbox.and_then(|context| context.namespace_options.as_ref()));
    let of = |pid: u32, name: &str| PathBuf::from(format!("/proc/{pid}/ns/{name}"));
    let pod = |name: &str| of(input.sandbox_pid, name);
    let mut all = vec![fresh(LinuxNamespaceType::Mount)];
    if input.mapping.is_some() {
        all.push(joined(LinuxNamespaceType::User, pod("user")));
    }
    if input.netns.is_some() {
        all.push(joined(LinuxNamespaceType::Network, pod("net")));
        all.push(joined(LinuxNamespaceType::Uts, pod("uts")));
    }
    if !is_node(sandbox.ipc()) {
        all.push(joined(LinuxNamespaceType::Ipc, pod("ipc")));
    }
    match options.pid() {
        NamespaceMode::Container => all.push(fresh(LinuxNamespaceType::Pid)),
        NamespaceMode::Pod | NamespaceMode::Node if is_node(sandbox.pid()) => {}
        NamespaceMode::Pod | NamespaceMode::Node => all.push(joined(LinuxNamespaceType::Pid, pod("pid"))),
        NamespaceMode::Target => {
            all.push(joined(LinuxNamespaceType::Pid, of(input.target_pid.unwrap_or(input.sandbox_pid), "pid")));
        }
    }
    // v1 has no use for one, and a privileged container is to see the host's.
    if input.host.cgroup_v2 && !is_privileged(input.security()) {
        all.push(fresh(LinuxNamespaceType::Cgroup));
    }
    all
}

fn fresh(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(None);
    namespace
}

fn joined(kind: LinuxNamespaceType, path: PathBuf) -> LinuxNamespace {
    let mut namespace = fresh(kind);
    namespace.set_path(Some(path));
    namespace
}
