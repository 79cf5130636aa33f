//! The verbs about the runtime itself: its version, its status, its configuration.

mod features;
mod runtime_config;
mod status;
mod update_runtime_config;
mod version;

pub use features::{Features, kernel_has_user_namespaces};
pub use runtime_config::runtime_config;
pub use status::status;
pub use update_runtime_config::update_runtime_config;
pub use version::version;
