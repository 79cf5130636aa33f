//! Converts a CRI config, an image's config and facts about the host to an OCI spec. The functions are pure: no I/O,
//! golden-tested. Verbs resolve what needs the file system (paths, devices, users) and pass it in.
//!
//! Where the proto does not say what to do, the reference is the spec that containerd's built-in CRI plugin builds.

mod annotations;
mod bounds;
mod capabilities;
mod cdi;
mod container;
mod devices;
mod enums;
mod env;
mod image;
mod mounts;
mod namespaces;
mod process;
mod report;
mod resources;
mod sandbox;
pub mod seccomp;
mod security;
mod selinux;
mod sysctls;
mod user;
mod userns;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Spec};

pub use annotations::update_annotations;
pub use bounds::{check_container_bounds, check_sandbox_bounds};
pub use container::{ContainerInput, container};
pub use enums::{check_container_enums, check_sandbox_enums};
pub use image::ImageConfig;
pub use mounts::check_mounts;
pub use process::exec_process;
pub use report::{reported_resources, reported_user};
pub use resources::{resources_before, update_resources};
pub use sandbox::{SandboxInput, sandbox};
pub use selinux::{container_labels, has_selinux_options, pod_labels, selinux_level};
pub use user::{User, UserDb, user};
pub use userns::user_namespace;

use crate::api::v1::{LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption};
use crate::container::seccomp_profile::ProfileFile;
use crate::lsm::selinux::Contexts;

/// OCI runtime spec version of the specs built here; runc 1.5 supports it.
const OCI_VERSION: &str = "1.2.1";

/// Facts about the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Whether the host has the unified cgroup hierarchy.
    pub cgroup_v2: bool,
    /// The lowest oom_score_adj that a process we start may get.
    pub oom_score_floor: i32,
    /// The capabilities that containerd has, as the kernel's bit mask: it cannot grant more.
    pub capabilities: u64,
    /// Whether cgroups count swap.
    pub swap: bool,
    /// Whether cgroups count huge pages.
    pub hugetlb: bool,
    /// Whether AppArmor is one of the kernel's security modules, and is enabled in the configuration.
    pub apparmor: bool,
    /// The contexts of SELinux's policy for containers; `None` if SELinux is not active, or not enabled in the
    /// configuration.
    pub selinux: Option<Contexts>,
    /// Whether the kernel has seccomp filters.
    pub seccomp: bool,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Flags of the host's cgroup2 mount, which a mount in the host's cgroup namespace has to repeat.
    pub cgroup_flags: Vec<String>,
    /// How many processors may ever exist; each has a thermal_throttle directory to be masked.
    pub cpu_count: usize,
}

/// What a runtime handler contributes to a spec.
#[derive(Clone, Debug, Default)]
pub struct Handler {
    pub name: String,
    /// A spec to start from instead of an empty one.
    pub base_spec: Option<Spec>,
    /// Whether its runtime can make mounts read-only including all mounts below them.
    pub recursive_read_only: bool,
    /// Whether its runtime can map the ids of a mount.
    pub id_mapped_mounts: bool,
    /// Whether a privileged container gets no host devices.
    pub privileged_without_host_devices: bool,
    /// Globs of pod annotations that are copied to specs.
    pub pod_annotations: Vec<String>,
    /// Globs of container annotations that are copied to specs.
    pub container_annotations: Vec<String>,
    /// Whether its pods run in virtual machines.
    pub virtual_machine: bool,
}

/// Files of the pod that its containers see.
#[derive(Clone, Debug)]
pub struct SandboxFiles {
    /// For /etc/hostname.
    pub hostname: PathBuf,
    /// For /etc/hosts.
    pub hosts: PathBuf,
    /// For /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// For /dev/shm.
    pub shm: PathBuf,
}

/// Why no spec can be built from a config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field has an invalid value.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the CRI field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field requests something that this host or this version does not have. Nothing is silently dropped.
    #[error("{field}: {problem}")]
    Unsupported {
        /// Name of the CRI field.
        field: String,
        /// What is missing.
        problem: String,
    },
}

impl Error {
    fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), problem: problem.into() }
    }
}

/// The file of the Localhost seccomp profile that a container requests; the verb reads it.
///
/// # Errors
/// [`Error::Invalid`] unless it is a clean absolute path.
pub fn seccomp_file(context: Option<&LinuxContainerSecurityContext>) -> Result<Option<ProfileFile>, Error> {
    security::seccomp_file(&security::SeccompRequest::container(context))
}

/// The file of the Localhost seccomp profile that a pod requests for its pause container; the verb reads it.
///
/// # Errors
/// [`Error::Invalid`] unless it is a clean absolute path.
pub fn sandbox_seccomp_file(context: Option<&LinuxSandboxSecurityContext>) -> Result<Option<ProfileFile>, Error> {
    security::seccomp_file(&security::SeccompRequest::sandbox(context))
}

/// An empty spec, or a copy of the handler's. Each part that a config sets replaces that part of the handler's spec;
/// other parts stay as the handler has them. Parts that belong to the pod never come from the handler: namespaces,
/// cgroup path, root, hostname, masked and read-only paths.
fn start(handler: &Handler) -> Spec {
    if let Some(base) = &handler.base_spec {
        let mut spec = base.clone();
        // A container with a hostname would rename the whole pod, whose UTS namespace it joins.
        spec.set_hostname(None);
        return spec;
    }
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned()).set_hostname(None).set_mounts(None).set_annotations(None);
    spec.set_process(Some(bare_process())).set_linux(Some(bare_linux()));
    spec
}

/// oci-spec's default process has capabilities and limits; this one has none.
fn bare_process() -> Process {
    let mut process = Process::default();
    process.set_capabilities(None).set_rlimits(None).set_env(None).set_args(None).set_no_new_privileges(Some(false));
    process
}

fn bare_linux() -> Linux {
    let mut linux = Linux::default();
    linux.set_namespaces(None).set_masked_paths(None).set_readonly_paths(None).set_resources(None).set_devices(None);
    linux
}

/// The process of a spec; every spec that we build has one.
fn process_of(spec: &mut Spec) -> &mut Process {
    spec.process_mut().get_or_insert_with(bare_process)
}

/// The Linux part of a spec; every spec that we build has one.
fn linux_of(spec: &mut Spec) -> &mut Linux {
    spec.linux_mut().get_or_insert_with(bare_linux)
}

/// oom_score_adj, limited to the kernel's range and to the lowest value that the process may set (docs/rulings.md 23).
fn oom_score(wanted: i64, host: &Host) -> i32 {
    let wanted = wanted.clamp(-1000, 1000);
    i32::try_from(wanted).unwrap_or(0).max(host.oom_score_floor)
}

/// The namespace options, with CRI's defaults if the config has none.
fn namespace_options(options: Option<&NamespaceOption>) -> NamespaceOption {
    options.cloned().unwrap_or_default()
}

fn is_privileged(context: Option<&LinuxContainerSecurityContext>) -> bool {
    context.is_some_and(|context| context.privileged)
}

fn is_node(mode: NamespaceMode) -> bool {
    mode == NamespaceMode::Node
}

/// Whether a path is as OCI requires it: absolute and without `..`.
fn is_clean_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests;
