//! Converts readings to CRI messages. A value that the kernel does not count is left out; it is never reported as 0.

use super::{Layer, Reading};
use crate::api::v1::{
    CpuUsage, FilesystemIdentifier, FilesystemUsage, IoUsage, MemoryUsage, NetworkInterfaceUsage, NetworkUsage,
    PsiData, PsiStats, SwapUsage, UInt64Value,
};
use crate::cgroup::{Pressure, Stall, Usage};
use crate::netns::Interface;

/// The interface that CNI creates by default.
const DEFAULT_INTERFACE: &str = "eth0";

#[must_use]
pub fn cpu_usage(reading: &Reading) -> Option<CpuUsage> {
    let cpu = reading.usage.cpu.as_ref()?;
    Some(CpuUsage {
        timestamp: reading.usage.at,
        usage_core_nano_seconds: some(cpu.nanoseconds),
        usage_nano_cores: value(reading.nano_cores),
        psi: psi(cpu.pressure),
    })
}

/// `available_bytes` is set only when the cgroup has a limit, as kubelet does with cAdvisor's values.
#[must_use]
pub fn memory_usage(usage: &Usage) -> Option<MemoryUsage> {
    let memory = usage.memory.as_ref()?;
    Some(MemoryUsage {
        timestamp: usage.at,
        working_set_bytes: some(memory.working_set()),
        available_bytes: value(memory.limit.map(|limit| limit.saturating_sub(memory.working_set()))),
        usage_bytes: some(memory.usage),
        rss_bytes: some(memory.rss),
        page_faults: some(memory.page_faults),
        major_page_faults: some(memory.major_page_faults),
        psi: psi(memory.pressure),
    })
}

#[must_use]
pub fn swap_usage(usage: &Usage) -> Option<SwapUsage> {
    let swap = usage.swap?;
    Some(SwapUsage {
        timestamp: usage.at,
        swap_available_bytes: value(swap.limit.map(|limit| limit.saturating_sub(swap.usage))),
        swap_usage_bytes: some(swap.usage),
    })
}

/// I/O pressure (PSI). CRI's `IoUsage` has nothing else.
#[must_use]
pub fn io_usage(usage: &Usage) -> Option<IoUsage> {
    usage.io_pressure.map(|pressure| IoUsage { timestamp: usage.at, psi: psi(Some(pressure)) })
}

/// The usage of a container's writable layer.
#[must_use]
pub fn filesystem_usage(layer: &Layer) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: layer.at,
        fs_id: layer.root.as_ref().map(|root| FilesystemIdentifier { mountpoint: root.display().to_string() }),
        used_bytes: some(layer.bytes),
        inodes_used: some(layer.inodes),
    }
}

/// A pod's network. The default interface is eth0, or the first interface if there is no eth0; `interfaces` has the
/// others, as the proto requires. `None` without any interface: kubelet does not expect network usage without a default
/// interface.
#[must_use]
pub fn network_usage(at: i64, interfaces: &[Interface]) -> Option<NetworkUsage> {
    let default = interfaces.iter().position(|interface| interface.name == DEFAULT_INTERFACE).unwrap_or(0);
    let mut all: Vec<NetworkInterfaceUsage> = interfaces.iter().map(interface_usage).collect();
    (!all.is_empty()).then(|| {
        let default_interface = Some(all.remove(default));
        NetworkUsage { timestamp: at, default_interface, interfaces: all }
    })
}

fn interface_usage(interface: &Interface) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: some(interface.received.bytes),
        rx_errors: some(interface.received.errors),
        tx_bytes: some(interface.sent.bytes),
        tx_errors: some(interface.sent.errors),
    }
}

fn psi(pressure: Option<Pressure>) -> Option<PsiStats> {
    let data = |stall: Stall| PsiData {
        total: stall.nanoseconds,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    pressure.map(|pressure| PsiStats { full: pressure.full.map(data), some: pressure.some.map(data) })
}

#[allow(clippy::unnecessary_wraps, reason = "protobuf's messages are all optional")]
fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn value(value: Option<u64>) -> Option<UInt64Value> {
    value.map(|value| UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Memory, Swap};

    #[test]
    fn available_is_what_is_left_of_a_limit_and_never_below_nothing() {
        let memory = Memory { usage: 100, inactive_file: 30, limit: Some(90), ..Memory::default() };
        let usage = |memory| Usage { at: 5, memory: Some(memory), ..Usage::default() };
        let told = memory_usage(&usage(memory.clone())).unwrap();
        assert_eq!((told.timestamp, told.working_set_bytes, told.available_bytes), (5, some(70), some(20)));
        let told = memory_usage(&usage(Memory { limit: Some(60), ..memory.clone() })).unwrap();
        assert_eq!(told.available_bytes, some(0));
        let told = memory_usage(&usage(Memory { limit: None, ..memory })).unwrap();
        assert_eq!(told.available_bytes, None);
    }

    #[test]
    fn what_is_not_counted_is_left_out() {
        let nothing = Reading::default();
        assert_eq!((cpu_usage(&nothing), memory_usage(&nothing.usage)), (None, None));
        assert_eq!((swap_usage(&nothing.usage), io_usage(&nothing.usage)), (None, None));
        let unlimited = Usage { swap: Some(Swap { usage: 7, limit: None }), ..Usage::default() };
        let told = swap_usage(&unlimited).unwrap();
        assert_eq!((told.swap_usage_bytes, told.swap_available_bytes), (some(7), None));
    }

    #[test]
    fn eth0_is_the_default_else_the_first_and_it_is_reported_once() {
        let named = |names: &[&str]| -> Vec<Interface> {
            names.iter().map(|name| Interface { name: (*name).to_owned(), ..Interface::default() }).collect()
        };
        let told = |names: &[&str]| {
            network_usage(1, &named(names)).map(|network| {
                let rest: Vec<String> = network.interfaces.into_iter().map(|interface| interface.name).collect();
                (network.default_interface.unwrap().name, rest)
            })
        };
        assert_eq!(told(&["net1", "eth0", "net2"]), Some(("eth0".into(), vec!["net1".into(), "net2".into()])));
        assert_eq!(told(&["net1", "net2"]), Some(("net1".into(), vec!["net2".into()])));
        assert_eq!(told(&[]), None);
    }
}
