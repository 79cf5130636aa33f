//! Mounts: those of the kernel's file systems, the pod's files, and those of the request, which take precedence over
//! the defaults.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{ContainerInput, Error, Handler, Host, SandboxFiles, is_clean_absolute, is_privileged, userns};
use crate::api::v1::MountPropagation;
use crate::container::mounts::HostMount;
use crate::userns::Mapping;

const SAFE: [&str; 3] = ["nosuid", "noexec", "nodev"];

/// Group id of tty, the group of terminals.
const TTY: u32 = 5;

/// A mount of a kernel file system: destination, type, source, options.
type Kernel = (&'static str, &'static str, &'static str, &'static [&'static str]);

const KERNEL: [Kernel; 4] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
];

/// The mounts of a pause container; resolv.conf is for VM handlers, which set up the VM's DNS from it.
pub(super) fn sandbox(files: &SandboxFiles, sys: Sys, mapping: Option<Mapping>, base: Vec<Mount>) -> Vec<Mount> {
    // A network namespace has only one sysfs: its first mount decides for all others whether it is read-only.
    let ours = kernel_mounts(mapping).chain([sys.mount()]);
    let base = base.into_iter().filter(|mount| !(sys == Sys::Host && mount.destination() == Path::new("/sys")));
    let mut all = override_defaults(base.collect(), ours.collect());
    all.retain(|mount| !["/dev/shm", "/etc/resolv.conf"].iter().any(|path| mount.destination() == Path::new(path)));
    for (path, file) in [("/dev/shm", &files.shm), ("/etc/resolv.conf", &files.resolv_conf)] {
        all.push(make(path, "bind", file, ["rbind", "ro"].into_iter().chain(SAFE)));
    }
    all
}

/// The mounts of a container, ordered so that none hides another, and the propagation of the root.
pub(super) fn container(input: &ContainerInput<'_>, base: Vec<Mount>) -> Result<(Vec<Mount>, Option<String>), Error> {
    let privileged = is_privileged(input.security());
    let sys = Sys::of(privileged, input.mapping, input.netns);
    // The /sys in a handler's spec is meant for containers that are not privileged.
    let base = base.into_iter().filter(|mount| sys == Sys::ReadOnly || mount.destination() != Path::new("/sys"));
    let ours = kernel_mounts(input.mapping).chain([sys.mount(), cgroup(privileged, input.host)]);
    let mut all = override_defaults(base.collect(), ours.collect());
    all.retain(|mount| !input.mounts.iter().any(|user| replaces(user, mount.destination())));

    let mut binds = pod_files(input);
    binds.extend(input.volumes.iter().map(|volume| image_volume(volume, input.mapping)));
    let asked: HashSet<PathBuf> = input.mounts.iter().map(target).collect();
    binds.retain(|bind| !asked.contains(bind.destination()));
    binds.extend(input.mounts.iter().map(bind));
    let bound: HashSet<&Path> = binds.iter().map(|bind| bind.destination().as_path()).collect();
    all.retain(|mount| !bound.contains(mount.destination().as_path()));
    // Parents before children; sort_by_key is stable, so mounts of equal depth keep their order.
    binds.sort_by_key(|bind| bind.destination().components().count());
    if let Some(bad) = binds.iter().find(|bind| !is_clean_absolute(bind.destination())) {
        return Err(Error::invalid(
            "the image's VOLUME",
            format!("{} is not a clean absolute path", bad.destination().display()),
        ));
    }
    all.extend(binds);
    Ok((all, root_propagation(input.mounts)))
}

/// Mounts of the handler's spec replace ours with the same path; the others follow. /run and /sys/fs/cgroup are
/// dropped: a spec printed by `ctr oci spec` has a tmpfs on /run, which would hide what the image has there.
fn override_defaults(base: Vec<Mount>, mut ours: Vec<Mount>) -> Vec<Mount> {
    const DROPPED: [&str; 2] = ["/run", "/sys/fs/cgroup"];
    for mount in base {
        match ours.iter_mut().find(|other| other.destination() == mount.destination()) {
            _ if DROPPED.iter().any(|path| mount.destination() == Path::new(path)) => {}
            Some(other) => *other = mount,
            None => ours.push(mount),
        }
    }
    ours
}

/// Whether a mount of the request replaces a default: one of the same path, or all below /dev if it mounts over /dev.
fn replaces(user: &HostMount, default: &Path) -> bool {
    let path = target(user);
    path == default || path == Path::new("/dev") && default.starts_with("/dev")
}

fn target(user: &HostMount) -> PathBuf {
    PathBuf::from(&user.mount.container_path)
}

fn pod_files(input: &ContainerInput<'_>) -> Vec<Mount> {
    let readonly = input.security().is_some_and(|context| context.readonly_rootfs);
    let access = if readonly { "ro" } else { "rw" };
    let files = [
        ("/etc/hostname", &input.files.hostname, access),
        ("/etc/hosts", &input.files.hosts, access),
        ("/etc/resolv.conf", &input.files.resolv_conf, access),
        ("/dev/shm", &input.files.shm, "rw"),
    ];
    files.map(|(path, file, access)| make(path, "bind", file, ["rbind", "rprivate", access])).to_vec()
}

/// Refuses mounts that the handler's runtime cannot make, before any path is resolved.
///
/// # Errors
/// [`Error::Unsupported`] names the field.
pub fn check_mounts(mounts: &[crate::api::v1::Mount], handler: &Handler) -> Result<(), Error> {
    let lacks = |index: usize, name: &str, prefix: &str, what: &str| {
        let problem = format!("{prefix}the runtime of handler {:?} has no {what}", handler.name);
        Err(Error::unsupported(format!("config.mounts[{index}].{name}"), problem))
    };
    for (index, mount) in mounts.iter().enumerate() {
        if mount.recursive_read_only && !handler.recursive_read_only {
            // Clients look for the first word of the message (cri-api, pkg/errors).
            return lacks(index, "recursive_read_only", "RROUnsupported: ", "such mounts");
        }
        // For an image volume, the ids of the layers are mapped, not those of the mount.
        if mount.image.is_none() && !mount.uid_mappings.is_empty() && !handler.id_mapped_mounts {
            return lacks(index, "uidMappings", "", "id-mapped mounts");
        }
    }
    Ok(())
}

/// Converts a mount of the request. It has been checked: its features by [`check_mounts`], its paths by
/// `crate::container::mounts`.
fn bind(user: &HostMount) -> Mount {
    let mount = &user.mount;
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let options = ["rbind", propagation, access].into_iter().chain(mount.mount_options.iter().map(String::as_str));
    let mut bind = make(&mount.container_path, "bind", &user.source, options);
    if !mount.uid_mappings.is_empty() {
        bind.set_uid_mappings(Some(userns::oci_of(&mount.uid_mappings)));
        bind.set_gid_mappings(Some(userns::oci_of(&mount.gid_mappings)));
    }
    bind
}

/// A VOLUME of the image. Host ids own its content; the mapping shows the pod the owners that the image has.
fn image_volume((path, directory): &(String, PathBuf), mapping: Option<Mapping>) -> Mount {
    let mut bind = make(path, "bind", directory, ["rbind", "rprivate", "rw"]);
    bind.set_uid_mappings(mapping.map(|mapping| userns::oci(mapping.uids)));
    bind.set_gid_mappings(mapping.map(|mapping| userns::oci(mapping.gids)));
    bind
}

/// The propagation of the container's root. It must not be weaker than that of any mount in it; the runtime's default,
/// private, would be.
fn root_propagation(mounts: &[HostMount]) -> Option<String> {
    let any = |wanted| mounts.iter().any(|user| user.mount.propagation() == wanted);
    if any(MountPropagation::PropagationBidirectional) {
        return Some("rshared".to_owned());
    }
    any(MountPropagation::PropagationHostToContainer).then(|| "rslave".to_owned())
}

/// The kernel's mounts. Terminals belong to the group tty, unless the pod has too few ids for it: the kernel refuses a
/// group that is not mapped.
fn kernel_mounts(mapping: Option<Mapping>) -> impl Iterator<Item = Mount> {
    let has_tty = mapping.is_none_or(|mapping| mapping.host_gid(TTY).is_some());
    KERNEL.iter().map(move |(path, kind, source, options)| {
        let options = options.iter().copied().filter(|option| has_tty || *option != "gid=5");
        make(path, kind, Path::new(source), options)
    })
}

/// What a container has at /sys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sys {
    /// A sysfs of its own.
    ReadOnly,
    /// A sysfs of its own that it may write to, for a privileged container.
    Writable,
    /// The host's, read-only including all mounts below it: a process in a user namespace that does not own the network
    /// namespace may not mount a sysfs.
    Host,
}

impl Sys {
    pub(super) fn of(privileged: bool, mapping: Option<Mapping>, netns: Option<&Path>) -> Self {
        match privileged {
            _ if mapping.is_some() && netns.is_none() => Self::Host,
            true => Self::Writable,
            false => Self::ReadOnly,
        }
    }

    fn mount(self) -> Mount {
        let sysfs = |access| make("/sys", "sysfs", Path::new("sysfs"), SAFE.into_iter().chain([access]));
        match self {
            Self::ReadOnly => sysfs("ro"),
            Self::Writable => sysfs("rw"),
            Self::Host => make("/sys", "bind", Path::new("/sys"), ["rbind", "rro"].into_iter().chain(SAFE)),
        }
    }
}

/// A privileged container is in the host's cgroup namespace. Mounting cgroup2 there sets the flags of the only
/// superblock, so the host loses each flag that is not repeated (cgroup-v2.rst, "Mounting").
fn cgroup(privileged: bool, host: &Host) -> Mount {
    let options = SAFE.into_iter().chain(["relatime", if privileged { "rw" } else { "ro" }]);
    let flags = host.cgroup_flags.iter().filter(|_| privileged).map(String::as_str);
    make("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), options.chain(flags))
}

fn make<'a>(path: &str, kind: &str, source: &Path, options: impl IntoIterator<Item = &'a str>) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(path.into()).set_typ(Some(kind.to_owned())).set_source(Some(source.to_owned()));
    mount.set_options(Some(options.into_iter().map(str::to_owned).collect()));
    mount
}
