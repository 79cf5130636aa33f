//! The spec of a container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Root, Spec};

use super::{
    Error, Handler, Host, ImageConfig, SandboxFiles, User, annotations, capabilities, cdi, devices, is_privileged,
    linux_of, mounts, namespaces, process, process_of, resources, security, selinux, start, userns,
};
use crate::api::v1::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    PodSandboxConfig,
};
use crate::cdi::ContainerEdits;
use crate::container::devices::HostDevice;
use crate::container::mounts::HostMount;
use crate::ids::{ContainerId, SandboxId};
use crate::lsm::selinux::Labels;
use crate::userns::Mapping;

/// Where the shim mounts a container's root, relative to its bundle.
const ROOT: &str = "rootfs";

/// The inputs of a container's spec.
#[derive(Debug)]
pub struct ContainerInput<'a> {
    pub id: &'a ContainerId,
    pub sandbox_id: &'a SandboxId,
    /// The request's config.
    pub config: &'a ContainerConfig,
    /// The sandbox's config.
    pub sandbox: &'a PodSandboxConfig,
    /// The pod's hostname: the config's, or else the node's.
    pub hostname: &'a str,
    /// Host PID of the pause process.
    pub sandbox_pid: u32,
    /// The pod's pinned network namespace; `None` on the host's network.
    pub netns: Option<&'a Path>,
    /// The pod's user namespace ([`super::user_namespace`]); `None` if it uses the node's.
    pub mapping: Option<Mapping>,
    /// Host PID of the process whose PID namespace is joined, for namespace mode TARGET.
    pub target_pid: Option<u32>,
    pub image: &'a ImageConfig,
    /// The image's name, for an annotation.
    pub image_name: &'a str,
    /// Content of the seccomp profile that [`super::seccomp_file`] names.
    pub seccomp: Option<&'a [u8]>,
    /// Its SELinux labels; `None` if it gets none.
    pub selinux: Option<&'a Labels>,
    /// The user that the process runs as.
    pub user: &'a User,
    pub files: &'a SandboxFiles,
    /// The request's mounts, resolved.
    pub mounts: &'a [HostMount],
    /// The request's devices, resolved.
    pub devices: &'a [HostDevice],
    /// The changes that the request's CDI devices make.
    pub cdi: &'a ContainerEdits,
    /// The image's VOLUMEs: path in the container, and directory on the host.
    pub volumes: &'a [(String, PathBuf)],
    pub host: &'a Host,
    pub handler: &'a Handler,
    /// The OCI `cgroupsPath`.
    pub cgroup_path: String,
}

impl<'a> ContainerInput<'a> {
    /// The request's security context.
    #[must_use]
    pub fn security(&self) -> Option<&'a LinuxContainerSecurityContext> {
        self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
    }

    fn resources(&self) -> Option<&'a LinuxContainerResources> {
        self.config.linux.as_ref().and_then(|linux| linux.resources.as_ref())
    }
}

/// Builds the spec of a container.
///
/// # Errors
/// [`Error`] names the field.
pub fn container(input: &ContainerInput<'_>) -> Result<Spec, Error> {
    let context = input.security();
    let privileged = is_privileged(context);
    if privileged && !sandbox_context(input.sandbox).is_some_and(|context| context.privileged) {
        let problem = "the sandbox is not privileged";
        return Err(Error::invalid("config.linux.security_context.privileged", problem));
    }
    let options = super::namespace_options(context.and_then(|context| context.namespace_options.as_ref()));
    let sandbox = sandbox_context(input.sandbox);
    let sandbox = super::namespace_options(sandbox.and_then(|context| context.namespace_options.as_ref()));
    selinux::check_container(context)?;
    namespaces::check_container(&options, &sandbox, input.target_pid)?;
    userns::check_same(userns::user_namespace(&options)?, input.mapping)?;
    userns::check_mapped(input.mapping, input.user.uid, input.user.gid, &input.user.groups)?;
    let mut spec = start(input.handler);
    let mut root = Root::default();
    root.set_path(ROOT.into()).set_readonly(Some(context.is_some_and(|context| context.readonly_rootfs)));
    spec.set_root(Some(root));
    let (mounts, propagation) = mounts::container(input, spec.mounts_mut().take().unwrap_or_default())?;
    spec.set_mounts(Some(mounts));
    spec.annotations_mut().get_or_insert_default().extend(annotations::container(input));
    set_process(process_of(&mut spec), input)?;
    let capabilities = capabilities::names(process_of(&mut spec).capabilities().as_ref());
    let linux = linux_of(&mut spec);
    set_linux(linux, input, &capabilities)?;
    linux.set_namespaces(Some(namespaces::container(&options, &sandbox, input)));
    if propagation.is_some() {
        linux.set_rootfs_propagation(propagation);
    }
    cdi::apply(&mut spec, input.cdi, !privileged || input.handler.privileged_without_host_devices);
    selinux::set(&mut spec, input.selinux, privileged, (input.host, input.handler));
    Ok(spec)
}

fn set_process(process: &mut Process, input: &ContainerInput<'_>) -> Result<(), Error> {
    let context = input.security();
    let env = process::env(input, process.env_mut().take().unwrap_or_default())?;
    let capabilities = capabilities::container(context, input.host, process.capabilities().as_ref())?;
    let base = process.apparmor_profile().clone();
    let apparmor = security::container_apparmor(context, input.host, base)?;
    process.set_args(Some(process::args(input)?)).set_env(Some(env)).set_cwd(process::cwd(input)?);
    process.set_user(input.user.to_oci()).set_terminal(Some(input.config.tty));
    process.set_capabilities(Some(capabilities));
    process.set_no_new_privileges(Some(context.is_some_and(|context| context.no_new_privs)));
    process.set_apparmor_profile(apparmor);
    if let Some(wanted) = input.resources() {
        process.set_oom_score_adj(Some(super::oom_score(wanted.oom_score_adj, input.host)));
    }
    Ok(())
}

fn set_linux(linux: &mut Linux, input: &ContainerInput<'_>, capabilities: &[String]) -> Result<(), Error> {
    let context = input.security();
    let base = linux.seccomp_mut().take();
    // Kubernetes promises that a privileged container is unconfined, whatever profile it names; critest checks it.
    if !is_privileged(context) {
        let request = security::SeccompRequest::container(context);
        let filter = if request.is_unset() {
            base
        } else {
            security::seccomp(&request, capabilities, input.host, input.seccomp)?
        };
        linux.set_seccomp(filter);
    }
    linux.set_uid_mappings(input.mapping.map(|mapping| userns::oci(mapping.uids)));
    linux.set_gid_mappings(input.mapping.map(|mapping| userns::oci(mapping.gids)));
    linux.set_cgroups_path(Some(input.cgroup_path.clone().into()));
    let mut limits = resources::container(linux.resources_mut().take(), input.resources(), input.host)?;
    let rules = limits.devices_mut().take().unwrap_or_default();
    limits.set_devices(Some(devices::rules(rules, input.devices, is_privileged(context), input.handler)));
    linux.set_resources(Some(limits));
    linux.devices_mut().get_or_insert_default().extend(devices::nodes(input.devices));
    let (masked, readonly) = security::paths(context, input.host);
    linux.set_masked_paths(Some(masked)).set_readonly_paths(Some(readonly));
    Ok(())
}

fn sandbox_context(config: &PodSandboxConfig) -> Option<&LinuxSandboxSecurityContext> {
    config.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
}
