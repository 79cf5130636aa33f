//! The verbs of containers, and what they share: VOLUMEs of images, mounted images, the end of a container.

pub mod container_status;
mod creatable;
pub mod create_container;
mod exits;
pub mod holders;
pub mod image_volumes;
mod list_containers;
pub mod oom;
mod remove_container;
mod reopen_container_log;
pub mod start_container;
mod stop_container;
mod update_container_resources;
pub mod volumes;

pub use container_status::container_status;
pub use create_container::create_container;
pub use list_containers::list_containers;
pub use remove_container::remove_container;
pub use reopen_container_log::reopen_container_log;
pub use start_container::start_container;
pub use stop_container::stop_container;
pub use update_container_resources::update_container_resources;
