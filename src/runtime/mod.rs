//! RuntimeService, one file a verb. A verb tells its story; objects decide what may happen,
//! the modules below do it. Verbs know nothing of gRPC: `cri` calls them and makes codes of
//! their errors.

mod attach;
mod container_stats;
mod container_status;
mod create_container;
mod error;
mod exec;
mod exec_sync;
mod exits;
mod features;
mod get_container_events;
mod held;
mod image_volumes;
mod labels;
mod large;
mod leftover_execs;
mod list_container_stats;
mod list_containers;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod listed_size;
mod lookup;
mod network;
mod node;
mod oom;
mod pause;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod reattach;
mod record_size;
mod recovery;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod room;
mod run_exec;
mod run_pod_sandbox;
mod runtime_config;
mod selinux;
mod shims;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod streaming_backend;
mod take_back;
mod threads;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod usage;
mod version;
mod volumes;

pub use attach::attach;
pub use container_stats::container_stats;
pub use container_status::container_status;
pub use create_container::create_container;
pub use error::{Error, chain};
pub use exec::exec;
pub use exec_sync::{ExecSyncReply, exec_sync};
pub use features::{Features, kernel_has_user_namespaces};
pub use get_container_events::get_container_events;
pub use list_container_stats::list_container_stats;
pub use list_containers::list_containers;
pub use list_metric_descriptors::list_metric_descriptors;
pub use list_pod_sandbox::list_pod_sandbox;
pub use list_pod_sandbox_metrics::list_pod_sandbox_metrics;
pub use list_pod_sandbox_stats::list_pod_sandbox_stats;
pub use node::{Change, Node, Parts};
pub use pod_sandbox_stats::pod_sandbox_stats;
pub use pod_sandbox_status::pod_sandbox_status;
pub use port_forward::port_forward;
pub use recovery::{Recovered, recover};
pub use remove_container::remove_container;
pub use remove_pod_sandbox::remove_pod_sandbox;
pub use reopen_container_log::reopen_container_log;
pub use run_pod_sandbox::run_pod_sandbox;
pub use runtime_config::runtime_config;
pub use start_container::start_container;
pub use status::status;
pub use stop_container::stop_container;
pub use stop_pod_sandbox::stop_pod_sandbox;
pub use streaming_backend::StreamingBackend;
pub use update_container_resources::update_container_resources;
pub use update_pod_sandbox_resources::update_pod_sandbox_resources;
pub use update_runtime_config::update_runtime_config;
pub use version::version;

/// What verbs give.
pub type Result<T> = std::result::Result<T, Error>;

/// Nanoseconds since the epoch, now.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
