//! Tests with a client that is written here, over an in-memory pipe.

pub(in crate::streaming) mod client;
mod corpus;
mod frames;
mod hostile;
mod port_forward;
mod remote_command;
mod session;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::streaming::life::SessionContext;
use crate::tasks::Tasks;

/// For a session that is not ended from outside.
fn life(idle: Duration) -> SessionContext {
    SessionContext { gone: CancellationToken::new(), idle, tasks: Tasks::default() }
}
