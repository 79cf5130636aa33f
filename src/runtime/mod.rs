//! RuntimeService: one file per verb, in folders by subject. A verb defines the steps; objects decide what may happen,
//! and the modules below do the work. Verbs know nothing of gRPC: `cri` calls them and maps their errors to codes.
//!
//! The files next to the folders contain what verbs of several folders share.

mod availability;
mod container;
mod error;
mod events;
mod host;
mod in_flight;
mod info;
mod labels;
mod large;
mod limits;
mod listed_size;
mod lookup;
mod node;
mod read_size;
mod record_size;
mod recovery;
mod rollback;
mod sandbox;
mod stats;
mod streams;
mod threads;

pub use availability::Availability;
pub use container::{
    container_status, create_container, list_containers, remove_container, reopen_container_log, start_container,
    stop_container, update_container_resources,
};
pub use error::{Error, chain};
pub use events::get_container_events;
pub use host::Host;
pub use in_flight::{InFlight, Repeatable};
pub use info::{Features, kernel_has_user_namespaces, runtime_config, status, update_runtime_config, version};
pub use limits::Limits;
pub use node::Node;
pub use recovery::{Recovered, recover};
pub use sandbox::{
    list_pod_sandbox, pod_sandbox_status, remove_pod_sandbox, run_pod_sandbox, stop_pod_sandbox,
    update_pod_sandbox_resources,
};
pub use stats::{
    container_stats, list_container_stats, list_metric_descriptors, list_pod_sandbox_metrics, list_pod_sandbox_stats,
    pod_sandbox_stats,
};
pub use streams::{ExecSyncReply, StreamingBackend, attach, exec, exec_sync, port_forward};

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

/// The current time in nanoseconds since the epoch.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
