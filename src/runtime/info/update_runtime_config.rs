//! UpdateRuntimeConfig: kubelet passes on the node's pod CIDRs.

use crate::api::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use crate::network::IpCidr;
use crate::runtime::{Error, Node, Result};

/// Largest length of all CIDRs of a node together, in bytes. kubelet has one for each IP family.
const LONGEST: usize = 4096;

/// Writes the CNI configuration from a template if one is configured; otherwise only logs the CIDRs.
///
/// # Errors
/// [`Error::Invalid`] if one is not a CIDR; [`Error::Attachment`] if the file cannot be written.
pub async fn update_runtime_config(
    node: &Node,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let cidrs = network.map(|network| network.pod_cidr).unwrap_or_default();
    if cidrs.is_empty() {
        return Ok(UpdateRuntimeConfigResponse {});
    }
    if cidrs.len() > LONGEST {
        let problem = format!("has {} bytes, more than {LONGEST}", cidrs.len());
        return Err(Error::Invalid { field: "runtime_config.network_config.pod_cidr", problem });
    }
    let parsed: std::result::Result<Vec<IpCidr>, _> = cidrs.split(',').map(|cidr| cidr.trim().parse()).collect();
    let parsed = parsed.map_err(|error| Error::Invalid {
        field: "runtime_config.network_config.pod_cidr",
        problem: error.to_string(),
    })?;
    let written = node.networks.default_network().write_from_template(&parsed).await;
    match written.map_err(Error::Attachment)? {
        Some(path) => tracing::info!(cidrs, path = %path.display(), "wrote the CNI configuration"),
        None => tracing::info!(cidrs, "pod CIDRs received; no cni.conf_template is configured"),
    }
    Ok(UpdateRuntimeConfigResponse {})
}
