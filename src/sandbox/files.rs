//! The files of a pod that its containers see: hostname, hosts, resolv.conf and /dev/shm.
//!
//! They live in the state directory: a pod does not outlive a reboot, nor do they. Containers may write to them, so each pod
//! has a small tmpfs for them: the state directory's is everybody's.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::api::v1::{DnsConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use crate::ids::SandboxId;
use crate::lsm::selinux::label_path;
use crate::sys::nsfs;
use crate::sys::read;
use crate::sys::remove_tree::remove_tree;

/// Size of a pod's /dev/shm, as in containerd and CRI-O.
const SHM_SIZE: &str = "size=67108864";
/// How much a pod's files may grow together, in bytes: by 10,000 lines of /etc/hosts.
const GROWTH: usize = 1 << 20;
const HOST_SHM: &str = "/dev/shm";
/// kubelet allows 63 characters; the kernel's own limit is 64 (utsname).
const HOSTNAME_LIMIT: usize = 64;

/// Where the files of one sandbox are; all derived from the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPaths {
    /// The directory that holds them.
    pub directory: PathBuf,
    /// /etc/hostname
    pub hostname: PathBuf,
    /// /etc/hosts
    pub hosts: PathBuf,
    /// /etc/resolv.conf
    pub resolv_conf: PathBuf,
    /// /dev/shm: the pod's own tmpfs, or the host's
    pub shm: PathBuf,
    /// Where the pod's user namespace is pinned, if it has one
    pub userns: PathBuf,
}

/// A file of a pod that could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A field that cannot be used.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the CRI field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system's.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl SandboxPaths {
    /// The paths of a sandbox below the state directory.
    #[must_use]
    pub fn new(state: &Path, id: &SandboxId, namespaces: &NamespaceOption) -> Self {
        let directory = state.join("sandboxes").join(id.as_str());
        let shm = match namespaces.ipc() {
            NamespaceMode::Node => PathBuf::from(HOST_SHM),
            NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target => directory.join("shm"),
        };
        Self {
            hostname: directory.join("hostname"),
            hosts: directory.join("hosts"),
            resolv_conf: directory.join("resolv.conf"),
            userns: directory.join("userns"),
            shm,
            directory,
        }
    }

    /// Makes them all but the pin. With an owner, the host's ids of the pod's root, they belong to it: id-mapped mounts
    /// of them would need a kernel that has those of tmpfs (Linux 6.3).
    ///
    /// # Errors
    /// [`FilesError`]; what was made so far is for [`SandboxPaths::remove`].
    pub fn create(
        &self,
        config: &PodSandboxConfig,
        hostname: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<(), FilesError> {
        let resolv_conf = resolv_conf(config.dns_config.as_ref())?;
        let hosts = of_host("/etc/hosts")?;
        make_directory(&self.directory)?;
        let size = GROWTH + hosts.len() + resolv_conf.len();
        mount_tmpfs("pod", &self.directory, &format!("mode=0700,size={size},nr_inodes=64"))?;
        write(&self.hostname, format!("{hostname}\n").as_bytes())?;
        write(&self.hosts, &hosts)?;
        write(&self.resolv_conf, &resolv_conf)?;
        if let Some((uid, gid)) = owner {
            for file in [&self.hostname, &self.hosts, &self.resolv_conf] {
                chown(file, Some(uid), Some(gid)).map_err(|error| io_error("change the owner of", file, error))?;
            }
        }
        if self.shm.starts_with(&self.directory) {
            make_directory(&self.shm)?;
            let (uid, gid) = owner.unwrap_or_default();
            mount_tmpfs("shm", &self.shm, &format!("mode=1777,{SHM_SIZE},uid={uid},gid={gid}"))?;
        }
        Ok(())
    }

    /// Gives them all an SELinux label. Not the host's /dev/shm, which is not ours.
    ///
    /// # Errors
    /// [`FilesError::Io`] with the first one that cannot be labelled.
    pub fn label(&self, label: &str) -> Result<(), FilesError> {
        let all = [&self.hostname, &self.hosts, &self.resolv_conf, &self.shm];
        for path in all.into_iter().filter(|path| path.starts_with(&self.directory)) {
            label_path(path, label).map_err(|source| io_error("label", path, source))?;
        }
        Ok(())
    }

    /// Takes them all away; what is not there is removed already.
    ///
    /// # Errors
    /// [`FilesError::Io`] with the first thing that stays.
    pub fn remove(&self) -> Result<(), FilesError> {
        if self.shm.starts_with(&self.directory) {
            unmount(&self.shm)?;
        }
        nsfs::unpin(&self.userns).map_err(|error| io_error("unpin", &self.userns, error))?;
        // With it goes what is in it, once the last container's mount of it has gone.
        unmount(&self.directory)?;
        remove_tree(&self.directory).map_err(|error| io_error("remove", &self.directory, error))
    }
}

/// The pod's hostname: the config's, or else the node's, which a new UTS namespace has anyway.
///
/// # Errors
/// [`FilesError::Invalid`] for one that the kernel would not take.
pub(crate) fn hostname(config: &PodSandboxConfig) -> Result<String, FilesError> {
    let name = if config.hostname.is_empty() {
        let name = nix::unistd::gethostname().map_err(|errno| io_error("read", Path::new("hostname"), errno.into()))?;
        name.to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    };
    if name.len() > HOSTNAME_LIMIT || name.bytes().any(|byte| byte.is_ascii_control() || byte == b'/') {
        let problem =
            format!("has to be at most {HOSTNAME_LIMIT} characters, none of them a control character or a slash");
        return Err(FilesError::Invalid { field: "config.hostname", problem });
    }
    Ok(name)
}

/// No dns_config means the host's file; an empty one means an empty file.
fn resolv_conf(dns: Option<&DnsConfig>) -> Result<Vec<u8>, FilesError> {
    let Some(dns) = dns else { return of_host("/etc/resolv.conf") };
    let parts = [
        ("config.dns_config.servers", &dns.servers),
        ("config.dns_config.searches", &dns.searches),
        ("config.dns_config.options", &dns.options),
    ];
    for (field, values) in parts {
        // A newline would add a line of the tenant's choice.
        if values.iter().any(|value| value.bytes().any(|byte| byte.is_ascii_control())) {
            return Err(FilesError::Invalid { field, problem: "has a control character".to_owned() });
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text.into_bytes())
}

fn make_directory(path: &Path) -> Result<(), FilesError> {
    // Containers reach the files by their mounts. A user of the node who passed through here could write to the pod's
    // shared memory, whose path every /proc/mounts tells.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io_error("make directory", path, error))
}

fn mount_tmpfs(name: &str, path: &Path, options: &str) -> Result<(), FilesError> {
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mounted = mount(Some(name), path, Some("tmpfs"), flags, Some(options));
    mounted.map_err(|errno| io_error("mount", path, errno.into()))
}

/// Largest file of the host's that a pod gets.
const LARGEST: u64 = 16 << 20;

/// A host without the file gives an empty one.
fn of_host(path: &str) -> Result<Vec<u8>, FilesError> {
    match read::regular(Path::new(path), LARGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| io_error("read", Path::new(path), error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FilesError> {
    fs::write(path, bytes).map_err(|error| io_error("write", path, error))
}

fn unmount(path: &Path) -> Result<(), FilesError> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: not a mount any more.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(io_error("unmount", path, errno.into())),
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_dns_config_is_an_empty_file_and_none_is_the_hosts() {
        assert!(resolv_conf(Some(&DnsConfig::default())).unwrap().is_empty());
        assert_eq!(resolv_conf(None).unwrap(), fs::read("/etc/resolv.conf").unwrap_or_default());
    }

    #[test]
    fn a_dns_value_cannot_add_a_line() {
        let dns = DnsConfig { searches: vec!["a\nnameserver 1.2.3.4".to_owned()], ..DnsConfig::default() };
        let error = resolv_conf(Some(&dns)).unwrap_err().to_string();
        assert!(error.starts_with("config.dns_config.searches: "), "{error}");
    }

    #[test]
    fn a_dns_config_is_written_in_resolvers_order() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["a.b".to_owned(), "b".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let text = String::from_utf8(resolv_conf(Some(&dns)).unwrap()).unwrap();
        assert_eq!(text, "search a.b b\nnameserver 10.0.0.10\noptions ndots:5\n");
    }
}
