//! The part of a container's OCI spec that stays in memory. A tenant decides how large a spec is. A large one is kept
//! whole in containerd only; here is what is needed frequently.

use oci_spec::runtime::Spec;

/// Limit for keeping a spec (bytes of JSON) or a config (bytes of protobuf) whole in memory. Real ones have ten to
/// twenty thousand bytes.
pub const LARGEST_WHOLE: usize = 256 << 10;

/// A spec as it is kept in memory.
#[derive(Debug)]
pub struct SpecInMemory {
    /// JSON, because a parsed spec takes ten times as much memory. A reduced spec lacks the process's arguments,
    /// environment and rlimits, the mounts, devices, annotations, hooks and the seccomp filter.
    pub json: Vec<u8>,
    /// Whether nothing was left out.
    pub is_whole: bool,
}

impl SpecInMemory {
    /// Reduces a spec in JSON if it is large. A large one that cannot be parsed becomes empty.
    #[must_use]
    pub fn of(json: Vec<u8>) -> Self {
        if json.len() <= LARGEST_WHOLE {
            return Self { json, is_whole: true };
        }
        let spec = serde_json::from_slice(&json).ok();
        drop(json);
        let reduced = spec.and_then(|spec| serde_json::to_vec(&reduced(spec)).ok());
        Self { json: reduced.unwrap_or_default(), is_whole: false }
    }
}

/// Removes what is needed only to run the container or a command in it.
fn reduced(mut spec: Spec) -> Spec {
    spec.set_mounts(None).set_annotations(None).set_hooks(None);
    if let Some(process) = spec.process_mut() {
        process.set_args(None).set_env(None).set_rlimits(None);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_devices(None).set_seccomp(None);
        if let Some(resources) = linux.resources_mut() {
            resources.set_devices(None);
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t10_of_a_large_spec_stays_what_is_asked_of_it() {
        let mut spec = Spec::default();
        spec.process_mut().as_mut().unwrap().set_env(Some(vec!["x".repeat(LARGEST_WHOLE)]));
        spec.linux_mut().as_mut().unwrap().set_mount_label(Some("label".to_owned()));
        let kept = SpecInMemory::of(serde_json::to_vec(&spec).unwrap());
        assert!(!kept.is_whole && kept.json.len() < 10_000, "{}", kept.json.len());
        let read: Spec = serde_json::from_slice(&kept.json).unwrap();
        assert_eq!(read.process().as_ref().unwrap().user(), spec.process().as_ref().unwrap().user());
        assert_eq!(read.linux().as_ref().unwrap().mount_label().as_deref(), Some("label"));
        assert!(SpecInMemory::of(b"{}".to_vec()).is_whole);
        assert!(SpecInMemory::of(vec![b'x'; LARGEST_WHOLE + 1]).json.is_empty());
    }
}
