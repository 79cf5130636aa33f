//! Device nodes, and the device rules of cgroups.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::Handler;
use crate::container::devices::HostDevice;

/// Every access: read, write, mknod.
pub(super) const ALL: &str = "rwm";

/// Allows only the devices that the runtime itself adds: null, zero, full, random, tty, pts.
pub(super) fn deny_all() -> Vec<LinuxDeviceCgroup> {
    vec![rule(false, None, None, ALL)]
}

/// The rules of a container: those of the handler's spec, then those of its devices. A privileged container may use
/// every device, unless its handler says otherwise.
pub(super) fn rules(
    base: Vec<LinuxDeviceCgroup>,
    devices: &[HostDevice],
    privileged: bool,
    handler: &Handler,
) -> Vec<LinuxDeviceCgroup> {
    if privileged && !handler.privileged_without_host_devices {
        return vec![rule(true, None, None, ALL)];
    }
    let mut rules = deny_all();
    rules.extend(base.into_iter().filter(|rule| *rule != deny_all()[0]));
    rules.extend(
        devices
            .iter()
            .map(|device| rule(true, Some(kind(device.kind)), Some((device.major, device.minor)), &device.access)),
    );
    rules
}

/// The device nodes that the runtime creates.
pub(super) fn nodes(devices: &[HostDevice]) -> Vec<LinuxDevice> {
    devices.iter().map(node).collect()
}

fn node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.path.clone()).set_typ(kind(device.kind)).set_major(device.major).set_minor(device.minor);
    node.set_file_mode(Some(device.mode)).set_uid(Some(device.uid)).set_gid(Some(device.gid));
    node
}

pub(super) fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    numbers: Option<(i64, i64)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(kind).set_access(Some(access.to_owned()));
    rule.set_major(numbers.map(|(major, _)| major)).set_minor(numbers.map(|(_, minor)| minor));
    rule
}

pub(super) fn kind(kind: char) -> LinuxDeviceType {
    match kind {
        'b' => LinuxDeviceType::B,
        'p' => LinuxDeviceType::P,
        'u' => LinuxDeviceType::U,
        _ => LinuxDeviceType::C,
    }
}
