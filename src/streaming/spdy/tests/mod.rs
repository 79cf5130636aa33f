//! Driven by a client's half that is written here, over a pipe in memory.

pub(in crate::streaming) mod client;
mod corpus;
mod frames;
mod hostile;
mod port_forward;
mod remote_command;
mod session;
