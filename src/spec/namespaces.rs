//! Namespaces: the sandbox creates or joins them, and its containers join those of the sandbox.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{ContainerInput, Error, SandboxInput, is_node, is_privileged, userns};
use crate::api::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig};

const FIELD: &str = "config.linux.security_context.namespace_options";

/// Refuses namespace options that are invalid for a pod.
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

/// Refuses namespace options that are invalid for a container. POD, which is also the default, means the pod's
/// namespace, whichever that is. NODE is valid only if the pod uses the node's namespace too. Otherwise containerd's
/// CRI plugin would join the pod's namespace, which is not what was requested; to join the node's would give the
/// container what the pod was not given.
pub(super) fn check_container(
    options: &NamespaceOption,
    sandbox: &NamespaceOption,
    target: Option<u32>,
) -> Result<(), Error> {
    if options.pid() == NamespaceMode::Target && target.is_none() {
        return Err(Error::invalid(format!("{FIELD}.target_id"), "names no running container of the pod"));
    }
    check(options)?;
    for (name, mode, pods) in [
        ("network", options.network(), sandbox.network()),
        ("pid", options.pid(), sandbox.pid()),
        ("ipc", options.ipc(), sandbox.ipc()),
    ] {
        if is_node(mode) && !is_node(pods) {
            return Err(Error::invalid(
                format!("{FIELD}.{name}"),
                "is NODE, but the sandbox does not use the node's namespace",
            ));
        }
    }
    Ok(())
}

fn check(options: &NamespaceOption) -> Result<(), Error> {
    if options.pid() != NamespaceMode::Target && !options.target_id.is_empty() {
        return Err(Error::invalid(format!("{FIELD}.target_id"), "goes with pid TARGET only"));
    }
    for (name, mode) in [("network", options.network()), ("ipc", options.ipc())] {
        match mode {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            // Neither mode has a meaning for these namespaces (api.proto, NamespaceOption).
            NamespaceMode::Container | NamespaceMode::Target => {
                return Err(Error::invalid(format!("{FIELD}.{name}"), "has to be POD or NODE"));
            }
        }
    }
    Ok(())
}

/// Whether a pod has its own UTS namespace, and so a hostname that is not the node's. A pod on the node's network has
/// the node's name too, unless its config contains a hostname.
pub(super) fn has_uts(config: &PodSandboxConfig, netns: Option<&Path>) -> bool {
    netns.is_some() || !config.hostname.is_empty()
}

/// The namespaces of a pause container: it creates all but the user and network namespaces, which are pinned before it
/// starts.
pub(super) fn sandbox(options: &NamespaceOption, input: &SandboxInput<'_>) -> Vec<LinuxNamespace> {
    let mut all = vec![fresh(LinuxNamespaceType::Mount)];
    all.extend(input.userns.map(|path| joined(LinuxNamespaceType::User, path.to_owned())));
    all.extend(input.netns.map(|path| joined(LinuxNamespaceType::Network, path.to_owned())));
    if has_uts(input.config, input.netns) {
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

/// The namespaces of a container, which joins those of the pod through the pause process.
pub(super) fn container(
    options: &NamespaceOption,
    sandbox: &NamespaceOption,
    input: &ContainerInput<'_>,
) -> Vec<LinuxNamespace> {
    let of = |pid: u32, name: &str| PathBuf::from(format!("/proc/{pid}/ns/{name}"));
    let pod = |name: &str| of(input.sandbox_pid, name);
    let mut all = vec![fresh(LinuxNamespaceType::Mount)];
    if input.mapping.is_some() {
        all.push(joined(LinuxNamespaceType::User, pod("user")));
    }
    if input.netns.is_some() {
        all.push(joined(LinuxNamespaceType::Network, pod("net")));
    }
    if has_uts(input.sandbox, input.netns) {
        all.push(joined(LinuxNamespaceType::Uts, pod("uts")));
    }
    if !is_node(sandbox.ipc()) {
        all.push(joined(LinuxNamespaceType::Ipc, pod("ipc")));
    }
    match options.pid() {
        NamespaceMode::Container => all.push(fresh(LinuxNamespaceType::Pid)),
        NamespaceMode::Node => {}
        NamespaceMode::Pod if is_node(sandbox.pid()) => {}
        NamespaceMode::Pod => all.push(joined(LinuxNamespaceType::Pid, pod("pid"))),
        NamespaceMode::Target => {
            all.push(joined(LinuxNamespaceType::Pid, of(input.target_pid.unwrap_or(input.sandbox_pid), "pid")));
        }
    }
    // cgroup v1 has no use for a cgroup namespace, and a privileged container is meant to see the host's cgroups.
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
