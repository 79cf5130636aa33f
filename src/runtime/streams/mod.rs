//! The verbs with streams: exec, attach and port-forward. [`crate::streaming`] is their HTTP side.

mod attach;
mod exec;
mod exec_sync;
mod port_forward;
pub mod run_exec;
mod streaming_backend;

pub use attach::attach;
pub use exec::exec;
pub use exec_sync::{ExecSyncReply, exec_sync};
pub use port_forward::port_forward;
pub use streaming_backend::StreamingBackend;
