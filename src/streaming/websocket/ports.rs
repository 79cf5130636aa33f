//! Port-forward over channels. Each port has one connection and two channels, one for data and one for errors. Both
//! channels begin with the port as two bytes, the low byte first.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::Session;
use super::channels::{ClientMessage, Codec, MOST_CHANNELS};
use super::command::offer;
use super::connection::{self, Io, Reader, Writer};
use crate::streaming::hangup::Hangup;
use crate::streaming::{Backend, Duplex, Failure, PortForward};

/// Each port has two channels.
pub(in crate::streaming) const MOST_PORTS: usize = MOST_CHANNELS as usize / 2;

/// Maximum number of pieces queued for each port, each at most [`super::cut::LONGEST`] bytes long.
const WAITING: usize = 1;

/// Carries a port-forward session of at most [`MOST_PORTS`] ports until all its connections have ended.
pub(in crate::streaming) async fn port_forward<T: Io>(
    io: T,
    codec: Codec,
    session: Session,
    backend: Arc<dyn Backend>,
    forward: PortForward,
) {
    let PortForward { sandbox, ports } = forward;
    let count = u8::try_from(ports.len() * 2).unwrap_or(MOST_CHANNELS);
    let (writer, mut reader) = connection::channels(io, codec, count, session.context.gone.clone()).await;
    let mut inputs = Vec::new();
    let mut connections = Vec::new();
    for (port, data) in ports.into_iter().zip((0..count).step_by(2)) {
        let (input, from_client) = mpsc::channel(WAITING);
        inputs.push(Some(input));
        let duplex = Duplex { from_client, to_client: writer.channel(data), gone: session.context.gone.clone() };
        for channel in [data, data + 1] {
            if writer.write(channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let connection = backend.port_forward(sandbox.clone(), port, duplex);
        connections.push(report(Arc::clone(&writer), data + 1, port, connection));
    }
    let activity = reader.activity();
    let reading = fill(inputs, &mut reader, &session.hangup);
    connection::drive(&session, &activity, join_all(connections), reading).await;
    connection::close_session(&session, &writer, &mut reader, None).await;
}

/// Waits for a connection to end, and sends its failure, if any, as a sentence.
async fn report<T: Io>(
    writer: Arc<Writer<T>>,
    channel: u8,
    port: u16,
    connection: impl Future<Output = Result<(), Failure>>,
) {
    if let Err(failure) = connection.await {
        let sentence = format!("error forwarding port {port}: {failure}");
        let _ = writer.write(channel, sentence.as_bytes()).await;
    }
}

async fn fill<T: Io>(mut inputs: Vec<Option<mpsc::Sender<Bytes>>>, reader: &mut Reader<T>, hangup: &Hangup) {
    while let Ok(message) = reader.next().await {
        let ClientMessage::Data(channel, data) = message else { continue };
        if channel % 2 != 0 || data.is_empty() {
            continue;
        }
        let Some(input) = inputs.get_mut(usize::from(channel / 2)) else { continue };
        if offer(input, data, hangup).await.is_err() {
            return;
        }
    }
}
