//! How large a record may become. containerd takes and gives messages of at most 16 MiB: a record near that cannot have its
//! exit written, and cannot be read by the next daemon. How large it is, whoever writes a pod decides.

use prost::Message;

use super::{Error, Result};
use crate::api::v1::{ContainerConfig, PodSandboxConfig};
use crate::container::Record;

/// The most that a record's spec and config may have together, in bytes. What is written later (exit, resources, labels of
/// images) has the rest of containerd's message. No process of Linux has so much: its arguments and environment are at most
/// 6 MiB together.
const LARGEST: usize = 14 << 20;

/// The most that a container's config may have without its arguments and environment, in bytes: it stays in memory as long
/// as there is the container.
const LARGEST_KEPT: usize = 1 << 20;

/// A field and the bytes that it has.
type Field = (&'static str, usize);

/// Refuses a container whose record would be too large, in containerd or in memory.
///
/// # Errors
/// [`Error::Invalid`] names the field that has most of it.
pub(super) fn check_container(config: &ContainerConfig, spec: &[u8]) -> Result<()> {
    let own = config.encoded_len();
    let kept = kept(config);
    let all_kept = if own <= LARGEST_KEPT { own } else { kept.iter().map(|(_, size)| size).sum() };
    if all_kept > LARGEST_KEPT {
        let problem = format!("is most of {all_kept} bytes that would stay in memory, which may be {LARGEST_KEPT}");
        return Err(Error::Invalid { field: largest(&kept), problem });
    }
    check(own, spec, || {
        let process = [
            ("config.envs", config.envs.iter().map(Message::encoded_len).sum()),
            ("config.command", config.command.iter().map(String::len).sum()),
            ("config.args", config.args.iter().map(String::len).sum()),
        ];
        let fields = [kept.as_slice(), &process].concat();
        // JSON writes at most six characters for a byte. What is not the request's, nor the few KB that every spec has, is the
        // image's: its environment, its arguments.
        if spec.len() > own * 6 + (1 << 20) { "config.image.image" } else { largest(&fields) }
    })
}

/// What can be large in [`crate::container::reduced`].
fn kept(config: &ContainerConfig) -> [Field; 6] {
    [
        ("config.mounts", config.mounts.iter().map(Message::encoded_len).sum()),
        ("config.devices", config.devices.iter().map(Message::encoded_len).sum()),
        ("config.CDI_devices", config.cdi_devices.iter().map(Message::encoded_len).sum()),
        ("config.labels", texts(&config.labels)),
        ("config.annotations", texts(&config.annotations)),
        ("config.linux", config.linux.as_ref().map_or(0, Message::encoded_len)),
    ]
}

/// The same for a sandbox.
///
/// # Errors
/// As [`check_container`].
pub(super) fn check_sandbox(config: &PodSandboxConfig, spec: &[u8]) -> Result<()> {
    check(config.encoded_len(), spec, || {
        largest(&[
            ("config.labels", texts(&config.labels)),
            ("config.annotations", texts(&config.annotations)),
            ("config.port_mappings", config.port_mappings.iter().map(Message::encoded_len).sum()),
            ("config.dns_config", config.dns_config.as_ref().map_or(0, Message::encoded_len)),
            ("config.linux", config.linux.as_ref().map_or(0, Message::encoded_len)),
        ])
    })
}

/// The same for a container's spec that is changed.
///
/// # Errors
/// As [`check_container`].
pub(super) fn check_update(record: &Record, spec: &[u8]) -> Result<()> {
    check(record.config_size, spec, || "linux.unified")
}

fn check(config: usize, spec: &[u8], largest: impl FnOnce() -> &'static str) -> Result<()> {
    let all = config + spec.len();
    if all <= LARGEST {
        return Ok(());
    }
    let field = largest();
    let problem = format!("is most of a record of {all} bytes in containerd, which may have {LARGEST}");
    Err(Error::Invalid { field, problem })
}

fn largest(fields: &[Field]) -> &'static str {
    fields.iter().max_by_key(|(_, size)| *size).map_or("config", |(field, _)| field)
}

fn texts(map: &std::collections::HashMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::KeyValue;

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
}
