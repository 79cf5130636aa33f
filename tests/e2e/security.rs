//! What the security tests share. They are named after the flaws that other runtimes had (CVE and GHSA numbers), or
//! after a row of our own threat model (x1 to x11), so that each flaw's test can be found by its name:
//!
//! | file | about |
//! |---|---|
//! | `security_process.rs` | users, groups, capabilities, environment, working directory, sysctls, exec |
//! | `security_files.rs` | directories, sockets, logs, mounts, leaked mounts |
//! | `security_images.rs` | what an image declares, and which hosts its pull uses |
//! | `security_names.rs` | labels, annotations, ids |
//! | `security_streaming.rs` | addresses, tokens and hostile clients of the streaming server |
//! | `security_tls.rs` | TLS of the streaming server |

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pontoon::api::v1;
use pontoon::api::v1::ContainerConfig;

use crate::bed::{Bed, image_spec};
use crate::images::layer_of;
use crate::registry::{Registry, Says};
use crate::scope::{Pod, Scope, busybox};

/// Builds an image and pulls it. Returns its name; it does not need the registry any more.
pub async fn evil(
    scope: &Scope,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
    says: &Says,
) -> anyhow::Result<String> {
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("evil-root")?;
    shell_in(&root)?;
    fill(&root)?;
    let (layer, diff_id) = layer_of(scope, &root, &["--owner=0", "--group=0"]).await?;
    std::fs::remove_dir_all(&root)?;
    let name = registry.image_that_says("evil", &layer, &diff_id, says)?;
    scope.bed.pull(&name).await?;
    Ok(name)
}

/// Creates a root file system: a static busybox under the names of a few programs, and an empty /etc.
fn shell_in(root: &Path) -> anyhow::Result<()> {
    let bin = root.join("bin");
    for directory in [&bin, &root.join("etc"), &root.join("proc"), &root.join("sys"), &root.join("dev")] {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755))?;
    std::fs::copy("/bin/busybox", bin.join("busybox")).context("/bin/busybox (package busybox-static)")?;
    for applet in ["sh", "id", "cat", "ls", "sleep", "grep", "true", "env"] {
        std::fs::hard_link(bin.join("busybox"), bin.join(applet))?;
    }
    Ok(())
}

/// A container of this image that runs a shell script.
pub fn shell_of(image: &str, name: &str, script: &str) -> ContainerConfig {
    ContainerConfig { image: Some(image_spec(image)), ..busybox(name, &["sh", "-c", script]) }
}

/// The config of an image that names its user.
pub fn of_user(user: &str) -> Says {
    Says { config: serde_json::json!({ "User": user }), ..Says::default() }
}

/// Creates a container, and then starts it, because the built-in leaves some refusals to runc.
pub async fn create_and_start(scope: &Scope, pod: &Pod, config: ContainerConfig) -> anyhow::Result<String> {
    let id = pod.create(config).await?;
    scope.bed.start(&id).await?;
    Ok(id)
}

/// A value of /proc/PID/status, in kB.
pub fn memory(pid: u32, key: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).context(key.to_owned())?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Measures how far the memory of a daemon rises above its initial value, at its peak, in kB.
pub struct Peak {
    pid: u32,
    before: u64,
}

impl Peak {
    /// Starts to measure the daemon that serves CRI.
    pub fn of(bed: &Bed) -> anyhow::Result<Self> {
        let pid = bed.pid(bed.server())?;
        // Resets VmHWM (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Self { pid, before: memory(pid, "VmRSS")? })
    }

    /// The result up to now.
    pub fn grown(&self) -> anyhow::Result<u64> {
        Ok(memory(self.pid, "VmHWM")?.saturating_sub(self.before))
    }
}

pub fn add_capabilities(names: &[&str]) -> Option<v1::Capability> {
    let add_capabilities = names.iter().map(|name| (*name).to_owned()).collect();
    Some(v1::Capability { add_capabilities, ..Default::default() })
}

/// A path outside the test's own directory. Nothing exists there yet.
pub fn absent(scope: &Scope, name: &str) -> PathBuf {
    scope.bed.dir.join("tmp").join(format!("absent-{name}"))
}

/// A directory that is a mount of its own until this value is dropped.
pub struct OnItself(PathBuf);

impl OnItself {
    /// `propagation` is an option of mount(8): `--make-private`, `--make-shared`.
    pub fn mount(path: &Path, propagation: &str) -> anyhow::Result<Self> {
        let mount = |arguments: &[&std::ffi::OsStr]| {
            let done = std::process::Command::new("mount").args(arguments).status()?;
            anyhow::ensure!(done.success(), "mount {arguments:?}");
            anyhow::Ok(())
        };
        mount(&["--bind".as_ref(), path.as_os_str(), path.as_os_str()])?;
        let mounted = Self(path.to_owned());
        mount(&[propagation.as_ref(), path.as_os_str()])?;
        Ok(mounted)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OnItself {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
