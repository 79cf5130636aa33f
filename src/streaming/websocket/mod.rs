//! WebSocket: exec and attach over channels, port-forward over channels or as SPDY in a tunnel.
//!
//! kubelet passes an upgraded connection through unchanged, so this module speaks to kubelet's clients: client-go (v5,
//! and the tunnel) and clients in other languages (v4 and before). It supports everything that kubelet's own server
//! library supports.

pub mod channels;
mod command;
mod connection;
mod cut;
mod handshake;
mod ports;
mod tunnel;

use super::hangup::Hangup;
use super::life::SessionContext;
pub(super) use channels::Codec;
pub(super) use command::remote_command;
pub(super) use connection::Io;
pub(super) use handshake::{CommandProtocol, PortProtocol, upgrade_command, upgrade_ports};
pub(super) use ports::{MOST_PORTS, port_forward};
pub(super) use tunnel::tunnel;

/// The state of a session apart from its connection.
pub(super) struct Session {
    pub(super) context: SessionContext,
    /// Reports that the client has gone, even while nothing is read from the connection.
    pub(super) hangup: Hangup,
}
