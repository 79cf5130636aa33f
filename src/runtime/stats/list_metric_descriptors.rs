//! ListMetricDescriptors: which metrics ListPodSandboxMetrics has.

use crate::api::v1::ListMetricDescriptorsResponse;
use crate::runtime::Node;
use crate::stats::metrics;

/// Returns the descriptors of all metrics; the result is always the same.
#[must_use]
pub fn list_metric_descriptors(node: &Node) -> ListMetricDescriptorsResponse {
    ListMetricDescriptorsResponse { descriptors: metrics::descriptors(&node.host.counted) }
}
