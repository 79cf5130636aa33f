//! RuntimeConfig.

use crate::api::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse};
use crate::runtime::Node;

/// The cgroup driver. kubelet asks once, at its start, and trusts the answer for ever.
#[must_use]
pub fn runtime_config(node: &Node) -> RuntimeConfigResponse {
    let driver = if node.config.handlers.default_handler().systemd_cgroup {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    };
    RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}
