//! WebSocket: exec and attach over channels, port-forward over channels or as SPDY in a tunnel.
//!
//! kubelet hands an upgraded connection on as it is, so this speaks what its clients speak: client-go (v5, and the
//! tunnel), the clients of other languages (v4 and before). What kubelet's own server library has is had here.

pub mod channels;
mod command;
mod connection;
mod cut;
mod handshake;
mod ports;
mod tunnel;

use super::hangup::Hangup;
use super::life::Life;
pub(super) use channels::Codec;
pub(super) use command::remote_command;
pub(super) use connection::Io;
pub(super) use handshake::{CommandProtocol, PortProtocol, upgrade_command, upgrade_ports};
pub(super) use ports::{MOST_PORTS, port_forward};
pub(super) use tunnel::tunnel;

/// What a session has besides its connection.
pub(super) struct Session {
    pub(super) life: Life,
    /// Says that the client has gone while nothing is read.
    pub(super) hangup: Hangup,
}
