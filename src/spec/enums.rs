//! Refuses numbers that an enum of the proto does not define. prost's getters take them for 0, which is POD,
//! RuntimeDefault, Merge, TCP: a client of a later CRI version would silently get something other than it requested.
//!
//! This is checked before all else. `userns_options.mode`, a mount's `propagation` and `stop_signal` are checked where
//! they are read.

use super::Error;
use crate::api::v1::security_profile::ProfileType;
use crate::api::v1::{
    ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, Protocol, SecurityProfile,
    SupplementalGroupsPolicy,
};

const CONTEXT: &str = "config.linux.security_context";

/// Refuses a pod's config with a number that its enum does not define.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn check_sandbox_enums(config: &PodSandboxConfig) -> Result<(), Error> {
    for (index, port) in config.port_mappings.iter().enumerate() {
        known::<Protocol>(&format!("config.port_mappings[{index}].protocol"), port.protocol, "Protocol")?;
    }
    let linux = config.linux.as_ref();
    let Some(context) = linux.and_then(|linux| linux.security_context.as_ref()) else { return Ok(()) };
    groups_policy(context.supplemental_groups_policy)?;
    namespaces(context.namespace_options.as_ref())?;
    profiles(context.seccomp.as_ref(), context.apparmor.as_ref())
}

/// Refuses a container's config with a number that its enum does not define.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn check_container_enums(config: &ContainerConfig) -> Result<(), Error> {
    let linux = config.linux.as_ref();
    let Some(context) = linux.and_then(|linux| linux.security_context.as_ref()) else { return Ok(()) };
    groups_policy(context.supplemental_groups_policy)?;
    namespaces(context.namespace_options.as_ref())?;
    profiles(context.seccomp.as_ref(), context.apparmor.as_ref())
}

fn groups_policy(number: i32) -> Result<(), Error> {
    let field = format!("{CONTEXT}.supplemental_groups_policy");
    known::<SupplementalGroupsPolicy>(&field, number, "SupplementalGroupsPolicy")
}

fn namespaces(options: Option<&NamespaceOption>) -> Result<(), Error> {
    let Some(options) = options else { return Ok(()) };
    for (name, number) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
        known::<NamespaceMode>(&format!("{CONTEXT}.namespace_options.{name}"), number, "NamespaceMode")?;
    }
    Ok(())
}

fn profiles(seccomp: Option<&SecurityProfile>, apparmor: Option<&SecurityProfile>) -> Result<(), Error> {
    for (name, profile) in [("seccomp", seccomp), ("apparmor", apparmor)] {
        if let Some(profile) = profile {
            known::<ProfileType>(&format!("{CONTEXT}.{name}.profile_type"), profile.profile_type, "ProfileType")?;
        }
    }
    Ok(())
}

fn known<E: TryFrom<i32>>(field: &str, number: i32, name: &str) -> Result<(), Error> {
    match E::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(field, format!("{number} is not a value of {name}"))),
    }
}
