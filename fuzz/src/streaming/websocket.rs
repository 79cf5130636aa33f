//! Replaces `src/streaming/websocket/mod.rs`: without the connection.

#[path = "../../../src/streaming/websocket/channels.rs"]
pub mod channels;
