//! Requests like those of kubelet.

use std::path::Path;

use pontoon::api::v1::*;

use super::containerd::IMAGE;

/// A pod with this name. The same name produces the same request.
pub fn pod(logs: &Path, name: &str) -> RunPodSandboxRequest {
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.to_owned(),
        log_directory: logs.join(name).display().to_string(),
        dns_config: Some(DnsConfig { servers: vec!["10.0.0.10".to_owned()], ..DnsConfig::default() }),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/besteffort/podtest".to_owned(),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

/// A container that runs a fake command (see process.rs of `super::containerd`).
pub fn container(sandbox: &str, pod: &RunPodSandboxRequest, name: &str, command: &[&str]) -> CreateContainerRequest {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig::default()),
        ..ContainerConfig::default()
    };
    CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: pod.config.clone(),
    }
}

/// The next attempt of a container, as kubelet creates it when one has ended.
pub fn next_attempt(request: &CreateContainerRequest) -> CreateContainerRequest {
    let mut request = request.clone();
    if let Some(metadata) = request.config.as_mut().and_then(|config| config.metadata.as_mut()) {
        metadata.attempt += 1;
    }
    request
}
