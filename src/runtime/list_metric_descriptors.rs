//! ListMetricDescriptors.

use crate::api::v1::ListMetricDescriptorsResponse;
use crate::stats::metrics;

/// Which metrics there are; always the same.
#[must_use]
pub fn list_metric_descriptors() -> ListMetricDescriptorsResponse {
    ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }
}
