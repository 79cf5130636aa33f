//! The verbs of pod sandboxes, and what they share: the pause container, the network, the SELinux level.

pub mod list_pod_sandbox;
mod network;
pub mod pause;
pub mod pod_sandbox_status;
mod remove_pod_sandbox;
mod run_pod_sandbox;
pub mod selinux;
mod stop_pod_sandbox;
mod update_pod_sandbox_resources;

pub use list_pod_sandbox::list_pod_sandbox;
pub use pod_sandbox_status::pod_sandbox_status;
pub use remove_pod_sandbox::remove_pod_sandbox;
pub use run_pod_sandbox::run_pod_sandbox;
pub use stop_pod_sandbox::stop_pod_sandbox;
pub use update_pod_sandbox_resources::update_pod_sandbox_resources;
