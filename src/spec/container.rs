//! The spec of a container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Root, Spec};

use super::{
    Error, Handler, Host, ImageConfig, SandboxFiles, User, annotations, capabilities, devices, is_privileged, mounts,
    namespaces, process, resources, security, start, with_linux, with_process,
};
use crate::api::v1::{ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig};
use crate::container::devices::HostDevice;
use crate::container::mounts::HostMount;
use crate::ids::{ContainerId, SandboxId};

/// Where the shim mounts a container's root, below its bundle.
const ROOT: &str = "rootfs";

/// What the spec of a container is made of.
#[derive(Debug)]
pub struct ContainerInput<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// The sandbox it is in.
    pub sandbox_id: &'a SandboxId,
    /// The request's config.
    pub config: &'a ContainerConfig,
    /// The sandbox's config.
    pub sandbox: &'a PodSandboxConfig,
    /// Host PID of the pause process.
    pub sandbox_pid: u32,
    /// The pod's pinned network namespace; `None` on the host's network.
    pub netns: Option<&'a Path>,
    /// Host PID whose PID namespace is joined, for namespace mode TARGET.
    pub target_pid: Option<u32>,
    /// The image's config.
    pub image: &'a ImageConfig,
    /// The image's name, for an annotation.
    pub image_name: &'a str,
    /// The seccomp profile that [`super::seccomp_file`] names, read.
    pub seccomp: Option<&'a [u8]>,
    /// Who the process runs as.
    pub user: &'a User,
    /// The pod's files.
    pub files: &'a SandboxFiles,
    /// The request's mounts, resolved.
    pub mounts: &'a [HostMount],
    /// The request's devices, resolved.
    pub devices: &'a [HostDevice],
    /// The image's VOLUMEs: path in the container, directory on the host.
    pub volumes: &'a [(String, PathBuf)],
    /// The host.
    pub host: &'a Host,
    /// The pod's runtime handler.
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
}

/// Makes the spec of a container.
///
/// # Errors
/// [`Error`] names the field.
pub fn container(input: &ContainerInput<'_>) -> Result<Spec, Error> {
    let context = input.security();
    let privileged = is_privileged(context);
    if privileged && !sandbox_is_privileged(input.sandbox) {
        let problem = "the sandbox is not privileged";
        return Err(Error::invalid("config.linux.security_context.privileged", problem));
    }
    refuse_what_is_not_there(input)?;
    let options = super::namespace_options(context.and_then(|context| context.namespace_options.as_ref()));
    namespaces::check(&options)?;
    let capabilities = capabilities::container(context, input.host)?;
    // Kubernetes promises that a privileged container is unconfined, whatever its profile says; critest holds it.
    let filter = || security::seccomp(&security::Wanted::container(context), &capabilities::names(&capabilities), input.host, input.seccomp);
    let seccomp = if privileged { None } else { filter()? };
    let apparmor = security::apparmor(context, input.host)?;
    let (mounts, propagation) = mounts::container(input)?;
    let wanted = input.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut limits = resources::container(wanted, input.host)?;
    limits.set_devices(Some(devices::rules(input.devices, privileged, input.handler)));

    let mut spec = start(input.handler);
    let mut root = Root::default();
    root.set_path(ROOT.into()).set_readonly(Some(context.is_some_and(|context| context.readonly_rootfs)));
    spec.set_root(Some(root));
    let (args, env, cwd) = (process::args(input)?, process::env(input)?, process::cwd(input)?);
    with_process(&mut spec, |process| {
        process.set_args(Some(args)).set_env(Some(env)).set_cwd(cwd).set_user(input.user.to_oci());
        process.set_terminal(Some(input.config.tty));
        process.set_capabilities(Some(capabilities));
        process.set_no_new_privileges(Some(context.is_some_and(|context| context.no_new_privs)));
        process.set_apparmor_profile(apparmor);
        process.set_selinux_label(security::selinux_label(context, input.sandbox, input.host));
        process.set_oom_score_adj(wanted.map(|wanted| super::oom_score(wanted.oom_score_adj, input.host)));
    });
    with_linux(&mut spec, |linux| {
        linux.set_namespaces(Some(namespaces::container(&options, input)));
        linux.set_cgroups_path(Some(input.cgroup_path.clone().into()));
        linux.set_resources(Some(limits)).set_seccomp(seccomp).set_rootfs_propagation(propagation);
        linux.set_devices(Some(devices::nodes(input.devices)));
        let (masked, readonly) = security::paths(context, input.host);
        linux.set_masked_paths(Some(masked)).set_readonly_paths(Some(readonly));
    });
    spec.set_mounts(Some(mounts));
    spec.set_annotations(Some(annotations::container(input)));
    Ok(spec)
}

/// Nothing is silently dropped: what this version does not do is an error.
fn refuse_what_is_not_there(input: &ContainerInput<'_>) -> Result<(), Error> {
    let config = input.config;
    if !config.cdi_devices.is_empty() || config.annotations.keys().any(|key| key.starts_with("cdi.k8s.io/")) {
        return Err(Error::unsupported("config.cdi_devices", "CDI devices are not supported by this version"));
    }
    if input.host.selinux && config.mounts.iter().any(|mount| mount.selinux_relabel) {
        return Err(Error::unsupported("config.mounts.selinux_relabel", "relabelling is not supported by this version"));
    }
    Ok(())
}

fn sandbox_is_privileged(config: &PodSandboxConfig) -> bool {
    let linux = config.linux.as_ref();
    linux.and_then(|linux| linux.security_context.as_ref()).is_some_and(|context| context.privileged)
}
