//! Compiles the protos that no crate provides, and the pause program.
//!
//! It uses protox instead of protoc, because Debian's protoc 3.21 rejects CRI's `debug_redact` option.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const CRI: &str = "proto/k8s.io/cri-api/api.proto";
const ADMIN: &str = "proto/pontoon/admin.proto";
const CONTAINERD: [&str; 5] = [
    "proto/containerd/cgroups_v1_metrics.proto",
    "proto/containerd/cgroups_v2_metrics.proto",
    "proto/containerd/runc_options.proto",
    "proto/containerd/runtimeoptions.proto",
    "proto/containerd/events_sandbox.proto",
];

/// The messages that get serde derives: the two configs and all messages within them. They are needed for `info.config`
/// of verbose statuses and for golden tests, with the names of Go's JSON. Derives for all messages would double the
/// build time of this crate.
const JSON: [&str; 31] = [
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "DNSConfig",
    "PortMapping",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "NamespaceOption",
    "UserNamespace",
    "IDMapping",
    "SELinuxOption",
    "Int64Value",
    "SecurityProfile",
    "LinuxContainerResources",
    "HugepageLimit",
    "WindowsPodSandboxConfig",
    "WindowsSandboxSecurityContext",
    "WindowsNamespaceOption",
    "ContainerConfig",
    "ContainerMetadata",
    "ImageSpec",
    "KeyValue",
    "Mount",
    "Device",
    "CDIDevice",
    "LinuxContainerConfig",
    "LinuxContainerSecurityContext",
    "Capability",
    "WindowsContainerConfig",
    "WindowsContainerSecurityContext",
    "WindowsContainerResources",
    "WindowsCpuGroupAffinity",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=src/sandbox/pause/main.rs");
    cri()?;
    admin()?;
    containerd()?;
    pause()
}

/// CRI's messages and its two services: servers, and clients for tests and the CLI.
fn cri() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile([CRI], ["proto/k8s.io/cri-api"])?;
    methods(&descriptors)?;
    let mut builder = tonic_prost_build::configure();
    for message in JSON {
        let path = format!("runtime.v1.{message}");
        builder = builder.message_attribute(path, "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]");
    }
    builder
        .use_arc_self(true)
        .generate_default_stubs(true)
        // prost ignores `debug_redact`, so src/api.rs has our own Debug for AuthConfig.
        .skip_debug(["runtime.v1.AuthConfig"])
        // The items of these responses stay encoded (src/api/encoded_list.rs).
        .extern_path(".runtime.v1.ListContainersResponse", "crate::api::v1::ListContainersResponse")
        .extern_path(".runtime.v1.StreamContainersResponse", "crate::api::v1::StreamContainersResponse")
        .extern_path(".runtime.v1.ListPodSandboxResponse", "crate::api::v1::ListPodSandboxResponse")
        .extern_path(".runtime.v1.StreamPodSandboxesResponse", "crate::api::v1::StreamPodSandboxesResponse")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Writes a sorted table from paths to names of CRI's methods. Only these names become label values, and never what a
/// client sends.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut table = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let (path, name) = (format!("/{}.{}", file.package(), service.name()), method.name());
                table.push(format!("    ({:?}, {name:?}),\n", format!("{path}/{name}")));
            }
        }
    }
    table.sort();
    let text = format!("const METHODS: [(&str, &str); {}] = [\n{}];\n", table.len(), table.concat());
    Ok(std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("cri_methods.rs"), text)?)
}

/// Pontoon's own service, which its commands call.
fn admin() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile([ADMIN], ["proto/pontoon"])?;
    tonic_prost_build::configure().use_arc_self(true).compile_fds(descriptors)?;
    Ok(())
}

/// Messages that containerd expects in its `Any` fields and that containerd-client lacks.
fn containerd() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(CONTAINERD, ["proto/containerd"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}

/// Builds the pause program, a static executable of a few kilobytes without std.
fn pause() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let rustc = std::env::var("RUSTC")?;
    let target = std::env::var("TARGET")?;
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin"])
        .args(["--target", &target])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-static", "-Clink-arg=-nostdlib"])
        .arg("-o")
        .arg(out.join("pause"))
        .arg(Path::new("src/sandbox/pause/main.rs"))
        .status()?;
    if !status.success() {
        return Err("rustc could not build the pause program".into());
    }
    Ok(())
}
