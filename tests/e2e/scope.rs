//! A test's pods and containers. A label distinguishes them from those of other tests. They are removed at its end.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, ContainerState, ContainerStatus, NamespaceMode, PodSandboxConfig};

use crate::bed::{BUSYBOX, Bed, SOON, image_spec, until};

/// The label that identifies a test's pods.
const LABEL: &str = "e2e-test";

/// The part of the bed that belongs to one test.
pub struct Scope {
    pub bed: Arc<Bed>,
    name: String,
    number: AtomicU32,
}

impl Scope {
    /// Creates the scope and its directory for the test of this name.
    pub fn new(bed: Arc<Bed>, test: &str) -> anyhow::Result<Self> {
        // A label's value has at most 63 characters and no colon.
        let name: String = test.rsplit("::").next().unwrap_or(test).replace('_', "-").chars().take(50).collect();
        let scope = Self { bed, name: name.trim_end_matches('-').to_owned(), number: AtomicU32::new(0) };
        std::fs::create_dir_all(scope.dir())?;
        std::fs::set_permissions(scope.dir(), std::fs::Permissions::from_mode(0o755))?;
        Ok(scope)
    }

    /// The test's own directory, for logs and volumes.
    pub fn dir(&self) -> PathBuf {
        self.bed.dir.join("pods").join(&self.name)
    }

    /// Creates a directory below [`Scope::dir`], as a volume.
    pub fn volume(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777))?;
        Ok(dir)
    }

    /// A pod as kubelet configures it: own network, a pid namespace for each container, a cgroup parent, a log
    /// directory.
    pub fn pod_config(&self) -> PodSandboxConfig {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.name);
        let uid = format!("uid-{name}");
        PodSandboxConfig {
            log_directory: self.dir().join(format!("logs-{number}")).display().to_string(),
            labels: HashMap::from([
                (LABEL.to_owned(), self.name.clone()),
                ("io.kubernetes.pod.uid".to_owned(), uid.clone()),
            ]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.bed.cgroup_parent),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            metadata: Some(v1::PodSandboxMetadata { name, uid, namespace: "e2e".to_owned(), attempt: 0 }),
            ..Default::default()
        }
    }

    /// Runs a pod with [`Scope::pod_config`].
    pub async fn pod(&self) -> anyhow::Result<Pod> {
        self.run(self.pod_config()).await
    }

    /// Runs a pod with the default runtime handler.
    pub async fn run(&self, config: PodSandboxConfig) -> anyhow::Result<Pod> {
        self.run_with(config, "").await
    }

    pub async fn run_with(&self, config: PodSandboxConfig, handler: &str) -> anyhow::Result<Pod> {
        if !config.log_directory.is_empty() {
            std::fs::create_dir_all(&config.log_directory)?;
        }
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let response = self.bed.runtime().run_pod_sandbox(request).await.context("RunPodSandbox")?;
        Ok(Pod { bed: self.bed.clone(), id: response.into_inner().pod_sandbox_id, config })
    }

    /// The test's pods, from ListPodSandbox.
    pub async fn pods(&self) -> anyhow::Result<Vec<v1::PodSandbox>> {
        let selector = HashMap::from([(LABEL.to_owned(), self.name.clone())]);
        let filter = v1::PodSandboxFilter { label_selector: selector, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.bed.runtime().list_pod_sandbox(request).await?.into_inner().decoded()?)
    }

    /// Removes all that the test created.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        self.remove_pods().await?;
        std::fs::remove_dir_all(self.dir()).context("the test's directory")
    }

    /// Stops and removes the test's pods, and then their cgroups as kubelet does.
    pub async fn remove_pods(&self) -> anyhow::Result<()> {
        for pod in self.pods().await? {
            self.remove_pod(pod.id).await?;
        }
        self.remove_cgroups().await
    }

    /// Stops and removes a pod. Its cgroup stays.
    pub async fn remove_pod(&self, id: String) -> anyhow::Result<()> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        self.bed.runtime().stop_pod_sandbox(stop).await.context("StopPodSandbox")?;
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
        self.bed.runtime().remove_pod_sandbox(remove).await.context("RemovePodSandbox")?;
        Ok(())
    }

    async fn remove_cgroups(&self) -> anyhow::Result<()> {
        for hierarchy in cgroup_hierarchies() {
            let parent = hierarchy.join(self.bed.cgroup_parent.trim_start_matches('/'));
            let Ok(entries) = std::fs::read_dir(parent) else { continue };
            for entry in entries.flatten() {
                let numbered =
                    entry.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(n, _)| n == self.name);
                if numbered && entry.path().is_dir() {
                    // A cgroup stays busy for a moment after its last process has exited.
                    until(SOON, || async { remove_cgroup(&entry.path()) }).await?;
                }
            }
        }
        Ok(())
    }
}

fn remove_cgroup(path: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.path().is_dir() {
            bail!("{} is left in the pod's cgroup", entry.path().display());
        }
    }
    std::fs::remove_dir(path).with_context(|| path.display().to_string())
}

/// The root directories of cgroup v1's controllers, or of the only hierarchy of v2.
pub fn cgroup_hierarchies() -> Vec<PathBuf> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return vec!["/sys/fs/cgroup".into()];
    }
    let entries = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    // Skips symlinks such as cpu -> cpu,cpuacct, which would be walked twice.
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Namespace options with the modes that the tests vary.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// A pod that RunPodSandbox has started.
pub struct Pod {
    bed: Arc<Bed>,
    pub id: String,
    pub config: PodSandboxConfig,
}

/// A container of busybox that runs `command`. Its namespace options are those of [`Scope::pod_config`].
pub fn busybox(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image_spec(BUSYBOX)),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        labels: HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
        log_path: format!("{name}/0.log"),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn shell(name: &str, script: &str) -> ContainerConfig {
    busybox(name, &["sh", "-c", script])
}

/// A container that runs until it is stopped, and ends at once on SIGTERM.
pub fn sleeper(name: &str) -> ContainerConfig {
    // As pid 1 the shell has no default action for a signal.
    shell(name, "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
}

/// The security context in a container's configuration. Adds an empty one if there is none.
pub fn security(config: &mut ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The resources in a container's configuration. Adds empty ones if there are none.
pub fn resources(config: &mut ContainerConfig) -> &mut v1::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

impl Pod {
    pub async fn create(&self, config: ContainerConfig) -> anyhow::Result<String> {
        if let (dir, Some((sub, _))) = (&self.config.log_directory, config.log_path.rsplit_once('/')) {
            std::fs::create_dir_all(Path::new(dir).join(sub))?;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let response = self.bed.runtime().create_container(request).await.context("CreateContainer")?;
        Ok(response.into_inner().container_id)
    }

    /// Creates a container and starts it. Returns its ID.
    pub async fn start(&self, config: ContainerConfig) -> anyhow::Result<String> {
        let id = self.create(config).await?;
        self.bed.start(&id).await?;
        Ok(id)
    }

    /// Runs a shell script as a container until it exits. Returns its output on both streams. Fails unless it exits
    /// with 0.
    pub async fn says(&self, config: ContainerConfig) -> anyhow::Result<String> {
        let log = self.log(&config);
        let id = self.start(config).await?;
        let status = self.bed.exited(&id).await?;
        let text = crate::logs::text(&log)?;
        ensure!(status.exit_code == 0, "exit code {}: {text}", status.exit_code);
        Ok(text)
    }

    pub fn log(&self, config: &ContainerConfig) -> PathBuf {
        Path::new(&self.config.log_directory).join(&config.log_path)
    }

    /// Calls PodSandboxStatus, verbose.
    pub async fn status(&self) -> anyhow::Result<v1::PodSandboxStatusResponse> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        Ok(self.bed.runtime().pod_sandbox_status(request).await.context("PodSandboxStatus")?.into_inner())
    }

    /// All its IPs, beginning with the primary one.
    pub async fn ips(&self) -> anyhow::Result<Vec<String>> {
        let network = self.status().await?.status.and_then(|status| status.network).context("no network in status")?;
        Ok(std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect())
    }

    pub async fn stop(&self) -> anyhow::Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.bed.runtime().stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        Ok(())
    }

    pub async fn remove(&self) -> anyhow::Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.bed.runtime().remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        Ok(())
    }
}

#[derive(Debug)]
pub struct Exec {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Bed {
    pub async fn start(&self, id: &str) -> anyhow::Result<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime().start_container(request).await.context("StartContainer")?;
        Ok(())
    }

    /// Calls StopContainer with a grace period in seconds.
    pub async fn stop(&self, id: &str, timeout: i64) -> anyhow::Result<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime().stop_container(request).await.context("StopContainer")?;
        Ok(())
    }

    pub async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime().remove_container(request).await.context("RemoveContainer")?;
        Ok(())
    }

    pub async fn status(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = self.runtime().container_status(request).await.context("ContainerStatus")?;
        response.into_inner().status.context("no status")
    }

    /// `info` of a verbose ContainerStatus, parsed from its JSON.
    pub async fn info(&self, id: &str) -> anyhow::Result<serde_json::Value> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = self.runtime().container_status(request).await.context("ContainerStatus")?.into_inner();
        Ok(serde_json::from_str(response.info.get("info").context("no key 'info'")?)?)
    }

    /// pid of a running container's first process, in the node's pid namespace.
    pub async fn pid_of(&self, id: &str) -> anyhow::Result<u64> {
        self.info(id).await?["pid"].as_u64().filter(|pid| *pid > 0).context("info.pid")
    }

    /// Waits until a container has exited. Returns its status.
    pub async fn exited(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        until(Duration::from_secs(30), || async {
            let status = self.status(id).await?;
            ensure!(status.state() == ContainerState::ContainerExited, "{:?}", status.state());
            Ok(status)
        })
        .await
    }

    /// Runs a shell script by ExecSync with a timeout of 20 s. Fails unless it exits with 0. Returns stdout without
    /// trailing white space.
    pub async fn sh(&self, id: &str, script: &str) -> anyhow::Result<String> {
        let exec = self.exec(id, &["sh", "-c", script], 20).await?;
        ensure!(exec.code == 0, "{script}: {exec:?}");
        Ok(exec.stdout.trim_end().to_owned())
    }

    /// Calls ExecSync with a timeout in seconds.
    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> anyhow::Result<Exec> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let response = self.runtime().exec_sync(request).await.context("ExecSync")?.into_inner();
        Ok(Exec {
            stdout: String::from_utf8_lossy(&response.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&response.stderr).into_owned(),
            code: response.exit_code,
        })
    }
}
