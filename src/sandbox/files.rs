//! The files of a pod that its containers see: hostname, hosts, resolv.conf and /dev/shm.
//!
//! They are in the state directory, because neither they nor the pod survive a reboot. Containers may write to them,
//! so each pod has a small tmpfs of its own: the file system of the state directory is shared by all.

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
/// How many bytes a pod's files may grow in total, enough for 10,000 more lines in /etc/hosts.
const GROWTH: usize = 1 << 20;
const HOST_SHM: &str = "/dev/shm";
/// kubelet allows 63 characters; the kernel's limit is 64 (utsname).
const HOSTNAME_LIMIT: usize = 64;

/// The paths of a sandbox's files. All are derived from the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPaths {
    /// The directory that contains all but the host's /dev/shm.
    pub directory: PathBuf,
    /// /etc/hostname
    pub hostname: PathBuf,
    /// /etc/hosts
    pub hosts: PathBuf,
    /// /etc/resolv.conf
    pub resolv_conf: PathBuf,
    /// /dev/shm: the pod's own tmpfs, or the host's.
    pub shm: PathBuf,
    /// Where the pod's user namespace is pinned, if it has one.
    pub userns: PathBuf,
}

/// Why a file of a pod could not be created or removed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A field of the request is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the CRI field.
        field: &'static str,
        problem: String,
    },
    /// The operating system returned an error.
    #[error("{operation} {path}")]
    Io {
        /// For example `mount`.
        operation: &'static str,
        path: PathBuf,
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

    /// Creates everything except the pinned user namespace. If `owner` is given (the host ids of the pod's root
    /// user), the files belong to it. Id-mapped mounts would be the alternative, but tmpfs supports them only since
    /// Linux 6.3.
    ///
    /// # Errors
    /// [`FilesError`]; the caller has to remove what was created so far with [`SandboxPaths::remove`].
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

    /// Gives all of them an SELinux label, except the host's /dev/shm, which does not belong to the pod.
    ///
    /// # Errors
    /// [`FilesError::Io`] for the first one that cannot be labelled.
    pub fn label(&self, label: &str) -> Result<(), FilesError> {
        let all = [&self.hostname, &self.hosts, &self.resolv_conf, &self.shm];
        for path in all.into_iter().filter(|path| path.starts_with(&self.directory)) {
            label_path(path, label).map_err(|source| io_error("label", path, source))?;
        }
        Ok(())
    }

    /// Removes all of them. It is no error if one does not exist.
    ///
    /// # Errors
    /// [`FilesError::Io`] for the first one that cannot be removed.
    pub fn remove(&self) -> Result<(), FilesError> {
        if self.shm.starts_with(&self.directory) {
            unmount(&self.shm)?;
        }
        nsfs::unpin(&self.userns).map_err(|error| io_error("unpin", &self.userns, error))?;
        // The tmpfs and its content disappear when the last container's mount of it is gone.
        unmount(&self.directory)?;
        remove_tree(&self.directory).map_err(|error| io_error("remove", &self.directory, error))
    }
}

/// The pod's hostname: from the config, otherwise the node's, which a new UTS namespace has by default.
///
/// # Errors
/// [`FilesError::Invalid`] if the kernel would not accept the name.
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

/// Without a dns_config the host's file is used; an empty dns_config results in an empty file.
fn resolv_conf(dns: Option<&DnsConfig>) -> Result<Vec<u8>, FilesError> {
    let Some(dns) = dns else { return of_host("/etc/resolv.conf") };
    let parts = [
        ("config.dns_config.servers", &dns.servers),
        ("config.dns_config.searches", &dns.searches),
        ("config.dns_config.options", &dns.options),
    ];
    for (field, values) in parts {
        // A newline would let the tenant add any line.
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
    // Containers reach the files through their mounts. With more permissions, any user of the node could write to the
    // pod's shared memory, whose path is shown in every /proc/mounts.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io_error("make directory", path, error))
}

fn mount_tmpfs(name: &str, path: &Path, options: &str) -> Result<(), FilesError> {
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mounted = mount(Some(name), path, Some("tmpfs"), flags, Some(options));
    mounted.map_err(|errno| io_error("mount", path, errno.into()))
}

/// Maximum size of a host file that a pod gets.
const LARGEST: u64 = 16 << 20;

/// The content of a host file; empty if it does not exist.
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
        // EINVAL: it is not a mount any more.
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
