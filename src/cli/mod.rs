//! Commands that ask a running daemon: over CRI's socket what any client may know, over the admin socket the rest.
//!
//! They are clients in processes of their own: they name no room of the daemon's but the messages and the configuration.

mod client;
pub mod top;
