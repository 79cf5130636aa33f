//! RuntimeConfig: the cgroup driver.

use crate::api::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse};
use crate::runtime::Node;

/// Returns the cgroup driver. kubelet calls this once, when it starts, and relies on the result from then on.
#[must_use]
pub fn runtime_config(node: &Node) -> RuntimeConfigResponse {
    let driver = if node.config.handlers.default_handler().systemd_cgroup {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    };
    RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}
