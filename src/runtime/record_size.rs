//! Limits the size of a record. containerd accepts and returns messages of at most 16 MiB. If a record is nearly that
//! large, its exit cannot be written, and the next daemon cannot read it. The author of a pod decides how large its
//! records are.

use prost::Message;

use super::listed_size::{largest, texts};
use super::{Error, Result};
use crate::api::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use crate::container::Record;

/// Limit for a record's spec and config together, in bytes. The rest of containerd's message is for what is written
/// later (exit, resources, labels of images). No process of Linux needs that much: its arguments and environment are at
/// most 6 MiB together.
const LARGEST: usize = 14 << 20;
/// The same limit for a sandbox: kubelet adds nothing to the pod in the API server, which has at most 1.5 MiB (etcd).
const LARGEST_SANDBOX: usize = 4 << 20;
/// How much an update of a sandbox's resources may add to its record, in bytes.
const LARGEST_UPDATE: usize = 1 << 20;
/// Linux's limit for a program's arguments and environment, whatever its stack (execve(2), "Limits").
const LARGEST_COMMAND: usize = 6 << 20;

/// Limit for a container's config without its arguments and environment, in bytes: that part stays in memory as long as
/// the container exists.
const LARGEST_KEPT: usize = 1 << 20;

/// Refuses a container whose record would be too large for containerd or for memory.
///
/// # Errors
/// [`Error::Invalid`] names the field that is the largest.
pub(super) fn check_container(config: &ContainerConfig, spec: &[u8]) -> Result<()> {
    let own = config.encoded_len();
    // Nearly all configs are smaller, even with arguments and environment.
    if own > LARGEST_KEPT {
        check_kept(&kept(config))?;
    }
    check(own + spec.len(), LARGEST, || {
        let process = [
            ("config.envs", config.envs.iter().map(Message::encoded_len).sum()),
            ("config.command", config.command.iter().map(String::len).sum()),
            ("config.args", config.args.iter().map(String::len).sum()),
        ];
        let fields = [kept(config).as_slice(), &process].concat();
        // JSON writes at most six characters for a byte. What a spec has beyond that, apart from the few KB of every
        // spec, is from the image: its environment, its arguments.
        if spec.len() > own * 6 + (1 << 20) { "config.image.image" } else { largest(&fields) }
    })
}

fn check_kept(fields: &[(&'static str, usize)]) -> Result<()> {
    let all: usize = fields.iter().map(|(_, size)| size).sum();
    if all <= LARGEST_KEPT {
        return Ok(());
    }
    let problem = format!("is most of {all} bytes that would stay in memory, which may be {LARGEST_KEPT}");
    Err(Error::Invalid { field: largest(fields), problem })
}

/// The fields of a config that may be large, without its process's arguments and environment ([`Record::kept`]).
fn kept(config: &ContainerConfig) -> [(&'static str, usize); 6] {
    [
        ("config.mounts", config.mounts.iter().map(Message::encoded_len).sum()),
        ("config.devices", config.devices.iter().map(Message::encoded_len).sum()),
        ("config.CDI_devices", config.cdi_devices.iter().map(Message::encoded_len).sum()),
        ("config.labels", texts(&config.labels)),
        ("config.annotations", texts(&config.annotations)),
        ("config.linux", config.linux.as_ref().map_or(0, Message::encoded_len)),
    ]
}

/// The same check for a sandbox.
///
/// # Errors
/// As [`check_container`].
pub(super) fn check_sandbox(config: &PodSandboxConfig, spec: &[u8]) -> Result<()> {
    check(config.encoded_len() + spec.len(), LARGEST_SANDBOX, || {
        largest(&[
            ("config.labels", texts(&config.labels)),
            ("config.annotations", texts(&config.annotations)),
            ("config.port_mappings", config.port_mappings.iter().map(Message::encoded_len).sum()),
            ("config.dns_config", config.dns_config.as_ref().map_or(0, Message::encoded_len)),
            ("config.linux", config.linux.as_ref().map_or(0, Message::encoded_len)),
        ])
    })
}

/// The same check for an update of a container's spec.
///
/// # Errors
/// As [`check_container`].
pub(super) fn check_update(record: &Record, spec: &[u8]) -> Result<()> {
    check(record.config_size + spec.len(), LARGEST, || "linux.unified")
}

/// The same check for an update of a sandbox's resources.
///
/// # Errors
/// As [`check_container`].
pub(super) fn check_sandbox_update(
    overhead: Option<&LinuxContainerResources>,
    resources: Option<&LinuxContainerResources>,
) -> Result<()> {
    let fields = [("resources", resources), ("overhead", overhead)];
    let fields = fields.map(|(name, part)| (name, part.map_or(0, Message::encoded_len)));
    check(fields[0].1 + fields[1].1, LARGEST_UPDATE, || largest(&fields))
}

/// Refuses a command that is too long for any kernel to execute.
///
/// # Errors
/// [`Error::Invalid`] names `cmd`.
pub(super) fn check_command(cmd: &[String]) -> Result<()> {
    let all: usize = cmd.iter().map(|word| word.len() + 1).sum();
    if all <= LARGEST_COMMAND {
        return Ok(());
    }
    let problem = format!("has {all} bytes, and the kernel gives a program at most {LARGEST_COMMAND}");
    Err(Error::Invalid { field: "cmd", problem })
}

/// Refuses a command whose OCI process, with the container's environment, would be too large for a message to
/// containerd.
///
/// # Errors
/// [`Error::Invalid`] names `cmd`.
pub(super) fn check_process(process: &[u8]) -> Result<()> {
    if process.len() <= LARGEST {
        return Ok(());
    }
    let length = process.len();
    let problem = format!("makes a process of {length} bytes with the container's environment, more than {LARGEST}");
    Err(Error::Invalid { field: "cmd", problem })
}

fn check(all: usize, most: usize, largest: impl FnOnce() -> &'static str) -> Result<()> {
    if all <= most {
        return Ok(());
    }
    let problem = format!("is most of a record of {all} bytes in containerd, which may have {most}");
    Err(Error::Invalid { field: largest(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::{KeyValue, PortMapping};

    fn said(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_record_is_refused_by_the_field_that_fills_it() {
        let env = KeyValue { key: "A".to_owned(), value: vec![1; 2_400_000] };
        let config = ContainerConfig { envs: vec![env], ..ContainerConfig::default() };
        // JSON writes six characters for each of these bytes.
        let spec = vec![b'x'; 6 * 2_400_000];
        assert!(said(check_container(&config, &spec)).starts_with("config.envs: is most of a record of 16800"));
        assert!(check_container(&config, b"{}").is_ok());
        let image = check_container(&ContainerConfig::default(), &vec![b'x'; LARGEST + 1]);
        assert!(said(image).starts_with("config.image.image"));
        let mount = crate::api::v1::Mount { host_path: "x".repeat(LARGEST_KEPT), ..Default::default() };
        let config = ContainerConfig { mounts: vec![mount], ..ContainerConfig::default() };
        assert!(said(check_container(&config, b"{}")).starts_with("config.mounts: is most of 10485"));
        let annotations = [("a".to_owned(), "x".repeat(LARGEST))].into();
        let pod = PodSandboxConfig { annotations, ..PodSandboxConfig::default() };
        assert!(said(check_sandbox(&pod, b"{}")).starts_with("config.annotations"));
    }

    #[test]
    fn a_sandbox_is_no_larger_than_any_pod_and_its_updates_are_small() {
        let port = PortMapping { container_port: 10_000, host_ip: "10.0.0.1".to_owned(), ..PortMapping::default() };
        let pod = |ports| PodSandboxConfig { port_mappings: vec![port.clone(); ports], ..PodSandboxConfig::default() };
        assert!(check_sandbox(&pod(60_000), b"{}").is_ok());
        let refused = said(check_sandbox(&pod(300_000), b"{}"));
        assert!(refused.starts_with("config.port_mappings: ") && refused.ends_with("may have 4194304"), "{refused}");
        let with = |bytes| LinuxContainerResources { cpuset_cpus: "1".repeat(bytes), ..Default::default() };
        assert!(check_sandbox_update(Some(&with(9)), Some(&with(1 << 19))).is_ok());
        assert!(said(check_sandbox_update(Some(&with(1 << 19)), Some(&with(1 << 20)))).starts_with("resources: "));
        assert!(said(check_sandbox_update(Some(&with(1 << 20)), None)).starts_with("overhead: "));
    }

    #[test]
    fn a_command_is_what_a_kernel_executes_and_a_message_carries() {
        let word = "x".repeat((1 << 20) - 1);
        assert!(check_command(&vec![word.clone(); 6]).is_ok());
        assert!(said(check_command(&vec![word; 7])).starts_with("cmd: has 7340032 bytes"));
        assert!(check_process(&vec![b'x'; LARGEST]).is_ok());
        assert!(said(check_process(&vec![b'x'; LARGEST + 1])).starts_with("cmd: makes a process of 14680065 bytes"));
    }
}
