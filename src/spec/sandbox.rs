//! The spec of a pause container.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxResources, Root, Spec};

use super::{
    Error, Handler, Host, SandboxFiles, annotations, capabilities, devices, linux_of, mounts, namespaces, oom_score,
    process_of, security, selinux, start, sysctls, userns,
};
use crate::api::v1::{LinuxSandboxSecurityContext, PodSandboxConfig};
use crate::ids::SandboxId;
use crate::lsm::selinux::Labels;
use crate::userns::Mapping;

/// Lower than that of every container, higher than that of processes that the node needs; the same as that of kubelet's
/// own pause containers.
const OOM_SCORE: i64 = -998;
/// The weight of a process that only sleeps.
const CPU_SHARES: u64 = 2;
/// User and group id of the pause process.
const NOBODY: u32 = 65535;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The inputs of a pause container's spec.
#[derive(Debug)]
pub struct SandboxInput<'a> {
    /// The id of the sandbox, which is also that of its pause container.
    pub id: &'a SandboxId,
    /// The request's config.
    pub config: &'a PodSandboxConfig,
    pub handler: &'a Handler,
    pub host: &'a Host,
    /// The OCI `cgroupsPath`.
    pub cgroup_path: String,
    /// Its pinned network namespace; `None` on the host's network.
    pub netns: Option<&'a Path>,
    /// Its pinned user namespace; `None` if it uses the node's.
    pub userns: Option<&'a Path>,
    /// Path of the read-only root; a relative path is below the bundle.
    pub root: &'a Path,
    /// The command of the pause container.
    pub args: Vec<String>,
    /// The pod's hostname.
    pub hostname: String,
    /// Content of the seccomp profile that [`super::sandbox_seccomp_file`] names.
    pub seccomp: Option<&'a [u8]>,
    /// The pod's SELinux labels; `None` if it gets none.
    pub selinux: Option<&'a Labels>,
    pub files: &'a SandboxFiles,
}

/// Builds the spec of a pause container.
///
/// # Errors
/// [`Error`] names the field.
pub fn sandbox(input: &SandboxInput<'_>) -> Result<Spec, Error> {
    let context = input.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = super::namespace_options(context.and_then(|context| context.namespace_options.as_ref()));
    namespaces::check_sandbox(&options)?;
    let mapping = userns::user_namespace(&options)?;
    let sysctls = sysctls::sandbox(input.config, &options)?;
    let (uid, gid, groups) = user(context, mapping)?;
    userns::check_mapped(mapping, uid, gid, &groups)?;
    selinux::check_sandbox(context)?;
    let seccomp = security::seccomp(&security::SeccompRequest::sandbox(context), &[], input.host, input.seccomp)?;
    let apparmor = security::sandbox_apparmor(context, input.host)?;

    let mut spec = start(input.handler);
    let mut root = Root::default();
    root.set_path(input.root.to_owned()).set_readonly(Some(true));
    spec.set_root(Some(root));
    if namespaces::has_uts(input.config, input.netns) {
        spec.set_hostname(Some(input.hostname.clone()));
    }
    let process = process_of(&mut spec);
    let mut user = oci_spec::runtime::User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(groups));
    process.set_user(user).set_args(Some(input.args.clone())).set_env(Some(vec![PATH.to_owned()]));
    process.set_cwd("/".into()).set_no_new_privileges(Some(true)).set_terminal(Some(false));
    // The limits and profiles of a handler are for programs, not for a process that only sleeps.
    process.set_capabilities(Some(capabilities::default())).set_rlimits(None).set_apparmor_profile(apparmor);
    process.set_oom_score_adj(Some(oom_score(OOM_SCORE, input.host)));
    let linux = linux_of(&mut spec);
    linux.set_namespaces(Some(namespaces::sandbox(&options, input)));
    linux.set_cgroups_path(Some(input.cgroup_path.clone().into()));
    linux.sysctl_mut().get_or_insert_default().extend(sysctls);
    linux.set_uid_mappings(mapping.map(|mapping| userns::oci(mapping.uids)));
    linux.set_gid_mappings(mapping.map(|mapping| userns::oci(mapping.gids)));
    linux.set_seccomp(seccomp);
    linux.set_masked_paths(Some(security::default_masked_paths(input.host)));
    linux.set_readonly_paths(Some(security::default_readonly_paths()));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_devices(Some(devices::deny_all()));
    linux.set_resources(Some(resources));
    let base = spec.mounts_mut().take().unwrap_or_default();
    let privileged = context.is_some_and(|context| context.privileged);
    let sys = mounts::Sys::of(privileged, mapping, input.netns);
    spec.set_mounts(Some(mounts::sandbox(input.files, sys, mapping, base)));
    selinux::set(&mut spec, input.selinux, privileged, (input.host, input.handler));
    spec.annotations_mut().get_or_insert_default().extend(annotations::sandbox(input));
    Ok(spec)
}

/// User, group and supplementary groups of the pause process; an id without privileges unless the pod names one.
fn user(
    context: Option<&LinuxSandboxSecurityContext>,
    mapping: Option<Mapping>,
) -> Result<(u32, u32, Vec<u32>), Error> {
    // If a pod has so few ids that the usual id of `nobody` is not mapped, its last id is used.
    let nobody = mapping.map_or(NOBODY, |mapping| NOBODY.min(mapping.uids.length - 1));
    let field = "config.linux.security_context";
    let Some(context) = context else { return Ok((nobody, nobody, Vec::new())) };
    let number = |name: &str, value: i64| super::user::id(&format!("{field}.{name}"), value);
    let uid = context.run_as_user.as_ref().map(|user| number("run_as_user", user.value)).transpose()?;
    let gid = context.run_as_group.as_ref().map(|group| number("run_as_group", group.value)).transpose()?;
    if gid.is_some() && uid.is_none() {
        return Err(Error::invalid(format!("{field}.run_as_group"), "needs run_as_user"));
    }
    let groups = context.supplemental_groups.iter().map(|group| number("supplemental_groups", *group));
    Ok((uid.unwrap_or(nobody), gid.or(uid.map(|_| 0)).unwrap_or(nobody), groups.collect::<Result<_, _>>()?))
}
