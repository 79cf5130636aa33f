//! Capabilities. None is inheritable but those that the request wants ambient.
//!
//! An inheritable capability is one that any binary with file capabilities may pick up, so
//! containers get none (CVE-2022-24769). The kernel lets only what is permitted and inheritable
//! be raised in the ambient set (capabilities(7)). runc sets the inheritable set to the letter,
//! and an ambient one that cannot be raised is a warning in its log (libcontainer/capabilities,
//! ApplyCaps): with an empty set `add_ambient_capabilities` would do nothing. So the inheritable
//! set is the ambient one, whose capabilities every program of the container has as it is; and
//! empty for all others, privileged ones too. containerd and CRI-O drop the request's ambient
//! capabilities without a word, we serve them; kubelet does not send any.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::{Error, Host, is_privileged};
use crate::api::v1::LinuxContainerSecurityContext;

const FIELD: &str = "config.linux.security_context.capabilities";

/// What a container has that asks for nothing, as in containerd and Docker.
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

/// All that Linux has, in the order of the kernel's numbers (linux/capability.h).
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

/// What "all" means on this host: a process cannot give away what it does not have.
fn every(host: &Host) -> HashSet<Capability> {
    let has = |number: usize| host.capabilities >> number & 1 == 1;
    EVERY.into_iter().enumerate().filter(|(number, _)| has(*number)).map(|(_, capability)| capability).collect()
}

/// The set of a container that asks for nothing.
pub(super) fn default() -> LinuxCapabilities {
    sets(DEFAULT.into(), HashSet::new())
}

/// Over those of the handler's spec, or else the default: ALL first, then the names, additions before drops.
///
/// # Errors
/// [`Error`] names the list with a name that Linux does not have.
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
    // Part of the other sets too, or the kernel would not raise them.
    let mut ambient: HashSet<Capability> =
        named("add_ambient_capabilities", &wanted.add_ambient_capabilities)?.collect();
    if wanted.add_ambient_capabilities.iter().any(is_all) {
        ambient.extend(every(host));
    }
    set.extend(ambient.iter().copied());
    Ok(sets(set, ambient))
}

/// The bounding set's names, as seccomp's table asks for them.
pub(super) fn names(capabilities: Option<&LinuxCapabilities>) -> Vec<String> {
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    bounding.into_iter().flatten().map(|capability| format!("CAP_{capability}")).collect()
}

/// Every capability of the host's, in either case, as in containerd.
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
