//! Seccomp, AppArmor, masked and read-only paths.

use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;

use super::{Error, Host, is_privileged, seccomp};
use crate::api::v1::security_profile::ProfileType;
use crate::api::v1::{LinuxContainerSecurityContext, LinuxSandboxSecurityContext, SecurityProfile};
use crate::container::seccomp_profile::ProfileFile;
use crate::lsm::apparmor::DEFAULT_PROFILE;

const FIELD: &str = "config.linux.security_context";
const SECCOMP_LOCALHOST: &str = "config.linux.security_context.seccomp.localhost_ref";
const SECCOMP_DEPRECATED: &str = "config.linux.security_context.seccomp_profile_path";
const LOCALHOST_ONLY: &str = "goes with Localhost only";

/// What a config says about seccomp, in the current field and in the deprecated one.
pub(super) struct SeccompRequest<'a> {
    profile: Option<&'a SecurityProfile>,
    deprecated_path: &'a str,
}

impl<'a> SeccompRequest<'a> {
    #[allow(deprecated, reason = "old clients set seccomp_profile_path")]
    pub(super) fn sandbox(context: Option<&'a LinuxSandboxSecurityContext>) -> Self {
        Self {
            profile: context.and_then(|context| context.seccomp.as_ref()),
            deprecated_path: context.map_or("", |context| context.seccomp_profile_path.as_str()),
        }
    }

    #[allow(deprecated, reason = "old clients set seccomp_profile_path")]
    pub(super) fn container(context: Option<&'a LinuxContainerSecurityContext>) -> Self {
        Self {
            profile: context.and_then(|context| context.seccomp.as_ref()),
            deprecated_path: context.map_or("", |context| context.seccomp_profile_path.as_str()),
        }
    }
}

impl SeccompRequest<'_> {
    /// Whether the config says nothing about seccomp.
    pub(super) fn is_unset(&self) -> bool {
        self.profile.is_none() && self.deprecated_path.is_empty()
    }

    fn kind(&self) -> Option<ProfileType> {
        match (self.profile, self.deprecated_path) {
            (Some(profile), _) => Some(profile.profile_type()),
            (None, "" | "unconfined") => None,
            (None, "runtime/default" | "docker/default") => Some(ProfileType::RuntimeDefault),
            (None, _) => Some(ProfileType::Localhost),
        }
    }
}

/// The seccomp filter. Without a request the container is unconfined, as in containerd; a profile that was requested
/// but is not available is an error, never unconfined.
pub(super) fn seccomp(
    request: &SeccompRequest<'_>,
    capabilities: &[String],
    host: &Host,
    file: Option<&[u8]>,
) -> Result<Option<LinuxSeccomp>, Error> {
    let field = || format!("{FIELD}.seccomp");
    match request.kind() {
        None | Some(ProfileType::Unconfined) => Ok(None),
        Some(_) if !host.seccomp => Err(Error::unsupported(field(), "this kernel has no seccomp filters")),
        Some(ProfileType::RuntimeDefault) => Ok(Some(seccomp::default_profile(capabilities, host.kernel))),
        Some(ProfileType::Localhost) => {
            let ProfileFile { field, path } = localhost_file(request)?;
            let profile = seccomp::from_json(file.unwrap_or_default());
            profile.map(Some).map_err(|error| {
                Error::invalid(field, format!("{}: is not a seccomp profile: {error}", path.display()))
            })
        }
    }
}

/// The file of a Localhost seccomp profile, which the verb has to read.
///
/// # Errors
/// [`Error::Invalid`] unless it is an absolute path without `..`, and for a file name with another type of profile.
pub(super) fn seccomp_file(request: &SeccompRequest<'_>) -> Result<Option<ProfileFile>, Error> {
    match (request.kind(), request.profile) {
        (Some(ProfileType::Localhost), _) => localhost_file(request).map(Some),
        (_, Some(profile)) if !profile.localhost_ref.is_empty() => {
            Err(Error::invalid(SECCOMP_LOCALHOST, LOCALHOST_ONLY))
        }
        (_, Some(_) | None) => Ok(None),
    }
}

/// The file that a request for a Localhost profile names, in whichever field.
fn localhost_file(request: &SeccompRequest<'_>) -> Result<ProfileFile, Error> {
    let (field, text) = match request.profile {
        Some(profile) => (SECCOMP_LOCALHOST, profile.localhost_ref.as_str()),
        None => (SECCOMP_DEPRECATED, request.deprecated_path),
    };
    // Old clients write `localhost/` before the path.
    let path = PathBuf::from(text.strip_prefix("localhost/").unwrap_or(text));
    if !super::is_clean_absolute(&path) {
        return Err(Error::invalid(field, format!("{text:?} is not a clean absolute path")));
    }
    Ok(ProfileFile { field, path })
}

/// The name of the AppArmor profile, from the current field or the deprecated one; the verb makes sure that it is
/// loaded. A container that names none gets the profile of its handler's spec, or else the default one, as Kubernetes
/// requires. A profile that is not available is an error, never unconfined.
pub(super) fn container_apparmor(
    context: Option<&LinuxContainerSecurityContext>,
    host: &Host,
    base: Option<String>,
) -> Result<Option<String>, Error> {
    let confined = |profile: Option<String>| profile.filter(|_| !is_privileged(context));
    match context.and_then(|context| apparmor_wanted(context)) {
        None => Ok(confined(base.or_else(|| Some(DEFAULT_PROFILE.to_owned()).filter(|_| host.apparmor)))),
        Some((kind, name)) => {
            let profile = apparmor(kind, name, host)?;
            Ok(if kind == ProfileType::Localhost { profile } else { confined(profile) })
        }
    }
}

/// The profile of the pause process: none unless the pod names one, as in containerd, since the process only sleeps.
pub(super) fn sandbox_apparmor(
    context: Option<&LinuxSandboxSecurityContext>,
    host: &Host,
) -> Result<Option<String>, Error> {
    match context.and_then(|context| context.apparmor.as_ref()) {
        None => Ok(None),
        Some(profile) => apparmor(profile.profile_type(), &profile.localhost_ref, host),
    }
}

fn apparmor(kind: ProfileType, name: &str, host: &Host) -> Result<Option<String>, Error> {
    let field = format!("{FIELD}.apparmor");
    match kind {
        ProfileType::Unconfined | ProfileType::RuntimeDefault if !name.is_empty() => {
            Err(Error::invalid(field + ".localhost_ref", LOCALHOST_ONLY))
        }
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault | ProfileType::Localhost if !host.apparmor => {
            Err(Error::unsupported(field, "this host has no AppArmor"))
        }
        ProfileType::RuntimeDefault => Ok(Some(DEFAULT_PROFILE.to_owned())),
        // kubelet writes the bare name; old clients write `localhost/` before it.
        ProfileType::Localhost => match name.strip_prefix("localhost/").unwrap_or(name) {
            "" => Err(Error::invalid(field + ".localhost_ref", "is empty")),
            name => Ok(Some(name.to_owned())),
        },
    }
}

#[allow(deprecated, reason = "old clients set apparmor_profile")]
fn apparmor_wanted(context: &LinuxContainerSecurityContext) -> Option<(ProfileType, &str)> {
    match (&context.apparmor, context.apparmor_profile.as_str()) {
        (Some(profile), _) => Some((profile.profile_type(), &profile.localhost_ref)),
        (None, "") => None,
        (None, "unconfined") => Some((ProfileType::Unconfined, "")),
        (None, "runtime/default") => Some((ProfileType::RuntimeDefault, "")),
        (None, name) => Some((ProfileType::Localhost, name)),
    }
}

/// Masked and read-only paths of a container. A privileged container has none. A container with a security context has
/// exactly those of the request (kubelet sends the lists, and empty ones for procMount Unmasked). All others have the
/// defaults.
pub(super) fn paths(context: Option<&LinuxContainerSecurityContext>, host: &Host) -> (Vec<String>, Vec<String>) {
    match context {
        Some(context) if context.privileged => (Vec::new(), Vec::new()),
        Some(context) => (context.masked_paths.clone(), context.readonly_paths.clone()),
        None => (default_masked_paths(host), default_readonly_paths()),
    }
}

/// The default masked paths: the list of containerd 2.4, with the power meter side channel (GHSA-7ww5-4wqc-m92c) closed
/// on every processor.
pub(super) fn default_masked_paths(host: &Host) -> Vec<String> {
    const MASKED: [&str; 12] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let throttles = (0..host.cpu_count).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    MASKED.iter().map(ToString::to_string).chain(throttles).collect()
}

/// The default read-only paths.
pub(super) fn default_readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}
