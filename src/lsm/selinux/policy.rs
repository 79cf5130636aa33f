//! The contexts that the loaded policy has for containers.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Context;
use crate::sys::read;

const SELINUXFS: &str = "/sys/fs/selinux";
/// From container-selinux; a policy without it may have lxc_contexts.
const CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
const POLICY: &str = "/etc/selinux";

/// The contexts that the policy assigns to containers, without a pod's level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts {
    /// Process of a container.
    pub process: Context,
    /// Process of a virtual machine.
    pub vm_process: Context,
    /// Process of a privileged container, which is unconfined. `None` if the policy has no such context; then the
    /// policy's transitions decide, as with containerd.
    pub privileged: Option<Context>,
    /// Files of a container.
    pub file: Context,
    /// Files that all containers may read and none may write.
    pub read_only_file: Context,
}

impl Default for Contexts {
    /// The contexts of container-selinux.
    fn default() -> Self {
        Self::parse("")
    }
}

impl Contexts {
    /// Parses the format of `lxc_contexts`: lines of `key = "context"`.
    fn parse(text: &str) -> Self {
        let context_of = |key: &str| {
            let line = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            let mut pairs = line.filter_map(|line| line.split_once('='));
            let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
            value.trim().trim_matches('"').parse().ok()
        };
        let default_context = |role: &str, kind: &str| Context {
            user: "system_u".to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: Some("s0".to_owned()),
        };
        let process = context_of("process").unwrap_or_else(|| default_context("system_r", "container_t"));
        let file = context_of("file").unwrap_or_else(|| default_context("object_r", "container_file_t"));
        Self {
            vm_process: context_of("kvm_process").unwrap_or_else(|| process.clone()),
            privileged: Some(Context { kind: "spc_t".to_owned(), ..process.clone() }),
            read_only_file: context_of("ro_file")
                .unwrap_or_else(|| Context { kind: "container_ro_file_t".to_owned(), ..file.clone() }),
            process,
            file,
        }
    }
}

/// Largest file of the policy that is read.
const LARGEST: u64 = 1 << 20;

/// Reads the contexts; `None` if the kernel has no SELinux, or no policy is loaded.
#[must_use]
pub fn contexts() -> Option<Contexts> {
    let enforce = Path::new(SELINUXFS).join("enforce");
    // Before a policy is loaded, every context is `kernel` and labels have no meaning.
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    if !enforce.exists() || matches!(own.trim_end_matches(['\0', '\n']), "" | "kernel") {
        return None;
    }
    let text = read::text(Path::new(CONTEXTS), LARGEST).or_else(|_| read::text(&lxc_contexts(), LARGEST));
    let text = text.unwrap_or_default();
    let mut contexts = Contexts::parse(&text);
    contexts.privileged = contexts.privileged.filter(|context| canonical(context).is_ok());
    Some(contexts)
}

fn lxc_contexts() -> PathBuf {
    let config = read::text(&Path::new(POLICY).join("config"), LARGEST).unwrap_or_default();
    let kind = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    Path::new(POLICY).join(kind.trim()).join("contexts/lxc_contexts")
}

/// A context in the form in which the kernel writes it, with its categories in order. Labels of files are compared in
/// this form.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when the context is invalid in the policy.
pub fn canonical(context: &Context) -> io::Result<Context> {
    let text = format!("{context}\0");
    let mut file = fs::OpenOptions::new().read(true).write(true).open(Path::new(SELINUXFS).join("context"))?;
    // Each write is one query (security/selinux/selinuxfs.c, sel_write_context).
    file.write_all(text.as_bytes())?;
    let mut answer = String::new();
    file.read_to_string(&mut answer)?;
    answer.trim_end_matches('\0').parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_words_win_over_those_of_container_selinux() {
        let text = "# process = \"x:x:x:s0\"\nprocess = \"system_u:system_r:svirt_lxc_net_t:s0\"\n\
                    content = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:svirt_lxc_file_t:s0\"\n";
        let contexts = Contexts::parse(text);
        assert_eq!(contexts.process.kind, "svirt_lxc_net_t");
        assert_eq!(contexts.file.to_string(), "system_u:object_r:svirt_lxc_file_t:s0");
        assert_eq!(contexts.vm_process, contexts.process);
        assert_eq!(contexts.read_only_file.to_string(), "system_u:object_r:container_ro_file_t:s0");
    }

    #[test]
    fn without_words_of_its_own_a_policy_is_container_selinuxs() {
        let contexts = Contexts::default();
        assert_eq!(contexts.process.to_string(), "system_u:system_r:container_t:s0");
        assert_eq!(contexts.file.to_string(), "system_u:object_r:container_file_t:s0");
        assert_eq!(contexts.privileged.unwrap().to_string(), "system_u:system_r:spc_t:s0");
    }

    #[test]
    fn a_policy_without_levels_has_contexts_without() {
        let contexts = Contexts::parse("process = u:r:t\nfile = u:object_r:f\n");
        assert_eq!((contexts.process.level, contexts.read_only_file.level), (None, None));
    }
}
