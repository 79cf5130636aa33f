//! Driven by a client's half that is written here, over a pipe in memory.

pub(in crate::streaming) mod client;
mod corpus;
mod frames;
mod hostile;
mod port_forward;
mod remote_command;
mod session;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::streaming::life::Life;
use crate::tasks::Tasks;

/// Of a session that nobody ends from outside.
fn life(idle: Duration) -> Life {
    Life { gone: CancellationToken::new(), idle, tasks: Tasks::default() }
}
