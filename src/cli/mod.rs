//! Commands that query a running daemon: over CRI's socket for what any CRI client may know, over the admin socket for
//! the rest.
//!
//! The commands are clients in processes of their own. Of the daemon's modules they use only the messages and the
//! configuration.

mod client;
pub mod top;
