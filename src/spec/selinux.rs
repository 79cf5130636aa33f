//! SELinux labels. A pod's labels are those of the policy, changed by the pod's options, at the pod's level. A
//! container's labels are its pod's, changed by the container's own options. Files have the user and the level of their
//! processes, and a type of their own.

use oci_spec::runtime::Spec;

use super::{Error, Handler, Host, linux_of, process_of};
use crate::api::v1::{LinuxContainerSecurityContext, LinuxSandboxSecurityContext, PodSandboxConfig, SeLinuxOption};
use crate::lsm::selinux::{Context, Contexts, Labels, is_level};

const FIELD: &str = "config.linux.security_context.selinux_options";

/// The level that a pod's options name, if any.
#[must_use]
pub fn selinux_level(config: &PodSandboxConfig) -> Option<&str> {
    let options = of_sandbox(sandbox_context(config))?;
    Some(options.level.as_str()).filter(|level| !level.is_empty())
}

/// A pod's labels. `level` is the level that was chosen for it; one in its options takes precedence.
///
/// # Errors
/// [`Error::Invalid`] for options that cannot be parts of a context.
pub fn pod_labels(config: &PodSandboxConfig, contexts: &Contexts, level: Option<String>) -> Result<Labels, Error> {
    let mut labels = Labels { process: contexts.process.clone(), mount: contexts.file.clone() };
    if level.is_some() {
        labels.process.level.clone_from(&level);
        labels.mount.level = level;
    }
    let options = of_sandbox(sandbox_context(config));
    check(options)?;
    apply(&mut labels, options);
    Ok(labels)
}

/// A container's labels. Options that it leaves empty are those of its pod, so that the pod's containers share its
/// volumes and /dev/shm.
///
/// # Errors
/// The same as for [`pod_labels`].
pub fn container_labels(context: Option<&LinuxContainerSecurityContext>, pod: &Labels) -> Result<Labels, Error> {
    let options = of_container(context);
    check(options)?;
    let mut labels = pod.clone();
    apply(&mut labels, options);
    Ok(labels)
}

/// Whether a container has SELinux options.
#[must_use]
pub fn has_selinux_options(context: Option<&LinuxContainerSecurityContext>) -> bool {
    of_container(context).is_some()
}

/// Refuses invalid options of a sandbox, even on a host without SELinux.
pub(super) fn check_sandbox(context: Option<&LinuxSandboxSecurityContext>) -> Result<(), Error> {
    check(of_sandbox(context))
}

/// Refuses invalid options of a container, even on a host without SELinux.
pub(super) fn check_container(context: Option<&LinuxContainerSecurityContext>) -> Result<(), Error> {
    check(of_container(context))
}

/// Sets the labels of a spec's process and mounts. A privileged process is not confined (CRI, `privileged`); its files
/// have the pod's label.
pub(super) fn set(spec: &mut Spec, labels: Option<&Labels>, privileged: bool, (host, handler): (&Host, &Handler)) {
    let known = host.selinux.as_ref().zip(labels);
    let process = known.and_then(|(contexts, labels)| match (privileged, handler.virtual_machine) {
        (true, _) => contexts.privileged.clone(),
        (false, true) => Some(Context { kind: contexts.vm_process.kind.clone(), ..labels.process.clone() }),
        (false, false) => Some(labels.process.clone()),
    });
    process_of(spec).set_selinux_label(process.map(|label| label.to_string()));
    linux_of(spec).set_mount_label(known.map(|(_, labels)| labels.mount.to_string()));
}

fn sandbox_context(config: &PodSandboxConfig) -> Option<&LinuxSandboxSecurityContext> {
    config.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
}

fn of_sandbox(context: Option<&LinuxSandboxSecurityContext>) -> Option<&SeLinuxOption> {
    context.and_then(|context| context.selinux_options.as_ref())
}

fn of_container(context: Option<&LinuxContainerSecurityContext>) -> Option<&SeLinuxOption> {
    context.and_then(|context| context.selinux_options.as_ref())
}

/// Refuses invalid characters: a colon would start the next part of the context.
fn check(options: Option<&SeLinuxOption>) -> Result<(), Error> {
    let Some(options) = options else { return Ok(()) };
    for (name, value) in [("user", &options.user), ("role", &options.role), ("type", &options.r#type)] {
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
            return Err(Error::invalid(
                format!("{FIELD}.{name}"),
                format!("{value:?} has characters that no name has"),
            ));
        }
    }
    if !options.level.is_empty() && !is_level(&options.level) {
        let problem = format!("{:?} is not a level such as s0:c1,c2", options.level);
        return Err(Error::invalid(format!("{FIELD}.level"), problem));
    }
    Ok(())
}

fn apply(labels: &mut Labels, options: Option<&SeLinuxOption>) {
    let Some(options) = options else { return };
    let set = |part: &mut String, value: &str| {
        if !value.is_empty() {
            value.clone_into(part);
        }
    };
    set(&mut labels.process.user, &options.user);
    set(&mut labels.mount.user, &options.user);
    set(&mut labels.process.role, &options.role);
    set(&mut labels.process.kind, &options.r#type);
    if !options.level.is_empty() {
        labels.process.level = Some(options.level.clone());
        labels.mount.level = Some(options.level.clone());
    }
}
