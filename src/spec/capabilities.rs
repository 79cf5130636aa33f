//! Capabilities. Only those that the request wants ambient are inheritable.
//!
//! Any binary with file capabilities may pick up an inheritable capability, so containers get none (CVE-2022-24769).
//! But the kernel raises a capability in the ambient set only if it is permitted and inheritable (capabilities(7)).
//! runc sets the inheritable set exactly as given, and only logs a warning when it cannot raise an ambient capability
//! (libcontainer/capabilities, ApplyCaps): with an empty inheritable set, `add_ambient_capabilities` would do nothing.
//! So the inheritable set equals the ambient set, whose capabilities every program of the container has anyway. It is
//! empty for all other containers, including privileged ones. containerd and CRI-O silently drop the ambient
//! capabilities of a request; we grant them. kubelet does not send any.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::{Error, Host, is_privileged};
use crate::api::v1::LinuxContainerSecurityContext;

const FIELD: &str = "config.linux.security_context.capabilities";

/// The capabilities of a container that requests nothing, as in containerd and Docker.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// All capabilities of Linux, in the order of the kernel's numbers (linux/capability.h).
const EVERY: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities that "all" means on this host: a process cannot grant what it does not have.
fn every(host: &Host) -> HashSet<Capability> {
    let has = |number: usize| host.capabilities >> number & 1 == 1;
    EVERY.into_iter().enumerate().filter(|(number, _)| has(*number)).map(|(_, capability)| capability).collect()
}

/// The sets of a container that requests nothing.
pub(super) fn default() -> LinuxCapabilities {
    sets(DEFAULT.into(), HashSet::new())
}

/// The sets of a container. They start from those of the handler's spec, or else from the default. ALL is applied
/// first, then the single names, additions before drops.
///
/// # Errors
/// [`Error`] names the list with a capability that Linux does not have.
pub(super) fn container(
    context: Option<&LinuxContainerSecurityContext>,
    host: &Host,
    base: Option<&LinuxCapabilities>,
) -> Result<LinuxCapabilities, Error> {
    if is_privileged(context) {
        return Ok(sets(every(host), HashSet::new()));
    }
    let mut set = base.and_then(|base| base.bounding().clone()).unwrap_or_else(|| DEFAULT.into());
    let Some(wanted) = context.and_then(|context| context.capabilities.as_ref()) else {
        return Ok(sets(set, HashSet::new()));
    };
    if wanted.add_capabilities.iter().any(is_all) {
        set = every(host);
    }
    if wanted.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    set.extend(named("add_capabilities", &wanted.add_capabilities)?);
    for dropped in named("drop_capabilities", &wanted.drop_capabilities)? {
        set.remove(&dropped);
    }
    // Ambient capabilities must be in the other sets too, or the kernel would not raise them.
    let mut ambient: HashSet<Capability> =
        named("add_ambient_capabilities", &wanted.add_ambient_capabilities)?.collect();
    if wanted.add_ambient_capabilities.iter().any(is_all) {
        ambient.extend(every(host));
    }
    set.extend(ambient.iter().copied());
    Ok(sets(set, ambient))
}

/// The names in the bounding set, in the form that the seccomp table uses.
pub(super) fn names(capabilities: Option<&LinuxCapabilities>) -> Vec<String> {
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    bounding.into_iter().flatten().map(|capability| format!("CAP_{capability}")).collect()
}

/// Whether a name means every capability of the host: `ALL` in upper or lower case, as in containerd.
fn is_all(name: impl AsRef<str>) -> bool {
    name.as_ref().eq_ignore_ascii_case("ALL")
}

fn named<'a>(list: &'static str, names: &'a [String]) -> Result<impl Iterator<Item = Capability> + use<'a>, Error> {
    let mut all = Vec::new();
    for name in names.iter().filter(|name| !is_all(name)) {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = EVERY.into_iter().find(|capability| capability.to_string() == bare);
        all.push(
            known
                .ok_or_else(|| Error::invalid(format!("{FIELD}.{list}"), format!("there is no capability {name:?}")))?,
        );
    }
    Ok(all.into_iter())
}

fn sets(all: HashSet<Capability>, ambient: HashSet<Capability>) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    capabilities.set_bounding(Some(all.clone())).set_permitted(Some(all.clone())).set_effective(Some(all));
    let ambient = Some(ambient).filter(|ambient| !ambient.is_empty());
    capabilities.set_inheritable(ambient.clone()).set_ambient(ambient);
    capabilities
}
