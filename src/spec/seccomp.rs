//! The seccomp profile for `RuntimeDefault`, equal in effect to that of containerd 2.4.2, and the parser of `Localhost`
//! profiles. Pure: nothing is read from the host.

mod table;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

/// errno of a system call that the kernel does not have (asm-generic/errno.h; the same on every supported
/// architecture).
const ENOSYS: u32 = 38;

/// The default profile for a container with these capabilities in its bounding set (such as `CAP_SYS_ADMIN`) on a
/// kernel of this version (major, minor). A call that it does not allow returns EPERM.
#[must_use]
pub fn default_profile(capabilities: &[String], kernel: (u32, u32)) -> LinuxSeccomp {
    profile_for(std::env::consts::ARCH, capabilities, kernel)
}

/// Parses a profile in the form of the OCI runtime spec, as nodes store it for `Localhost`. Fields that the spec does
/// not have are ignored.
///
/// # Errors
/// What is wrong with the JSON, or the unknown action, operator or architecture in it.
pub fn from_json(profile: &[u8]) -> Result<LinuxSeccomp, serde_json::Error> {
    serde_json::from_slice(profile)
}

fn profile_for(arch: &str, capabilities: &[String], kernel: (u32, u32)) -> LinuxSeccomp {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut syscalls = vec![allow(table::ALWAYS, None)];
    syscalls.extend(socket());
    syscalls.extend(table::PERSONALITIES.map(|value| allow("personality", equal_to(value))));
    if kernel >= (4, 8) {
        syscalls.push(allow(table::SINCE_4_8, None));
    }
    let of_arch = table::BY_ARCHITECTURE.iter().filter(|(name, _)| *name == arch);
    syscalls.extend(of_arch.map(|(_, names)| allow(names, None)));
    let granted = table::BY_CAPABILITY.iter().filter(|(capability, _)| has(capability));
    syscalls.extend(granted.map(|(_, names)| allow(names, None)));
    if !has("CAP_SYS_ADMIN") {
        syscalls.extend(clone_without_namespaces(arch));
    }

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno);
    let arches = architectures(arch);
    // Without a list the runtime uses the native architecture; an empty list would say the same less clearly.
    profile.set_architectures((!arches.is_empty()).then_some(arches));
    profile.set_syscalls(Some(syscalls));
    profile
}

/// The system call tables that a process of this architecture can use. A process that uses one that is missing here is
/// killed on its first call, such as a 32-bit program on a 64-bit kernel.
fn architectures(arch: &str) -> Vec<Arch> {
    match arch {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64],
        "s390x" => vec![Arch::ScmpArchS390, Arch::ScmpArchS390x],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        "loongarch64" => vec![Arch::ScmpArchLoongarch64],
        _ => Vec::new(),
    }
}

/// socket(2) for all domains except AF_ALG, AF_VSOCK and those that do not exist yet. Where sockets are created by
/// socketcall(2), the arguments are behind a pointer, and no filter can see the domain.
fn socket() -> Vec<LinuxSyscall> {
    // runc treats several comparisons of one argument as alternatives (opencontainers/runc#2735), so a range can have
    // only one bound. AF_UNSPEC is below it, but creates no socket.
    let below = argument(0, table::AF_ALG, Operator::ScmpCmpLt, None);
    let mut rules = vec![allow("socket", Some(below))];
    rules.extend(table::DOMAINS_ABOVE_ALG.map(|domain| allow("socket", equal_to(domain))));
    rules
}

/// Allows threads and processes, but no new namespaces.
fn clone_without_namespaces(arch: &str) -> [LinuxSyscall; 2] {
    // s390 has the first two arguments of clone(2) in the opposite order ("C library/kernel differences" in the manual
    // page).
    let flags = if arch == "s390x" { 1 } else { 0 };
    let none = argument(flags, table::NEW_NAMESPACES, Operator::ScmpCmpMaskedEq, Some(0));
    // The flags of clone3 are behind a pointer, so they cannot be filtered. After EPERM a C library would give up;
    // after ENOSYS it falls back to clone (moby#42681).
    let mut clone3 = rule("clone3", Action::ScmpActErrno, None);
    clone3.set_errno_ret(Some(ENOSYS));
    [allow("clone", Some(none)), clone3]
}

fn allow(names: &str, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, Action::ScmpActAllow, argument)
}

fn rule(names: &str, action: Action, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names.split_whitespace().map(ToOwned::to_owned).collect());
    syscall.set_action(action);
    syscall.set_args(argument.map(|argument| vec![argument]));
    syscall
}

fn equal_to(value: u64) -> Option<LinuxSeccompArg> {
    Some(argument(0, value, Operator::ScmpCmpEq, None))
}

/// For a masked comparison, `value` is the mask, and `second` is what the masked argument must equal.
fn argument(index: usize, value: u64, operator: Operator, second: Option<u64>) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    if let Some(second) = second {
        builder = builder.value_two(second);
    }
    builder.build().expect("every field has a default, so nothing can be missing")
}

#[cfg(test)]
mod tests;
