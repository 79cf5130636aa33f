//! Resource limits of a container, from its OCI spec.

use serde::Deserialize;

/// A memory limit above this value counts as unlimited, as in cAdvisor.
const UNLIMITED: i64 = 1 << 62;

/// Limits as metrics show them, in bytes and microseconds. An unlimited memory value is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The period of the CPU quota.
    pub cpu_period: Option<u64>,
    /// `None` when the CPU time is unlimited.
    pub cpu_quota: Option<u64>,
    pub cpu_shares: Option<u64>,
    /// The memory limit.
    pub memory: Option<u64>,
    /// The memory that the container keeps when the node is short of memory.
    pub memory_reservation: Option<u64>,
    /// The limit of memory and swap together.
    pub memory_and_swap: Option<u64>,
}

/// The part of an OCI spec that contains the limits. The rest is ten times as large, and is skipped.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Linux {
    resources: Resources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    cpu: Cpu,
    memory: Memory,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
    reservation: Option<i64>,
    swap: Option<i64>,
}

impl Limits {
    /// Reads an OCI spec in JSON. A spec that cannot be parsed yields no limits.
    #[must_use]
    pub fn of_spec(spec: &[u8]) -> Self {
        let Resources { cpu, memory } = serde_json::from_slice::<Spec>(spec).unwrap_or_default().linux.resources;
        let bytes = |limit: i64| u64::try_from(limit).ok().filter(|_| limit <= UNLIMITED).unwrap_or(0);
        Self {
            cpu_period: cpu.period,
            cpu_quota: cpu.quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0),
            cpu_shares: cpu.shares,
            memory: memory.limit.map(bytes),
            memory_reservation: memory.reservation.map(bytes),
            memory_and_swap: memory.swap.map(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_a_spec() {
        let spec = br#"{"ociVersion":"1.2","process":{"args":["a"]},"linux":{"namespaces":[{"type":"pid"}],"resources":
            {"devices":[{"allow":false}],"cpu":{"shares":512,"quota":50000,"period":100000},"memory":{"limit":1048576,"swap":-1}}}}"#;
        let limits = Limits {
            cpu_period: Some(100_000),
            cpu_quota: Some(50_000),
            cpu_shares: Some(512),
            memory: Some(1 << 20),
            memory_reservation: None,
            memory_and_swap: Some(0),
        };
        assert_eq!(Limits::of_spec(spec), limits);
        let unlimited = br#"{"linux":{"resources":{"cpu":{"quota":-1},"memory":{"limit":9223372036854771712}}}}"#;
        assert_eq!(Limits::of_spec(unlimited), Limits { memory: Some(0), ..Limits::default() });
        assert_eq!(Limits::of_spec(b"not JSON"), Limits::default());
    }
}
