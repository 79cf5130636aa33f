//! The verb of events, and how the other verbs report what has happened to a sandbox or a container.

mod announce;
mod get_container_events;

pub use get_container_events::get_container_events;
