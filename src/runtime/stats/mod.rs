//! The verbs of stats and metrics. [`crate::stats`] measures what is used.

mod container_stats;
mod list_container_stats;
mod list_metric_descriptors;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod usage;

pub use container_stats::container_stats;
pub use list_container_stats::list_container_stats;
pub use list_metric_descriptors::list_metric_descriptors;
pub use list_pod_sandbox_metrics::list_pod_sandbox_metrics;
pub use list_pod_sandbox_stats::list_pod_sandbox_stats;
pub use pod_sandbox_stats::pod_sandbox_stats;
