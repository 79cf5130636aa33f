//! Starts the session of an accepted request: a separate tracked operation, which ends on its own.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::answer::Answer;
use super::hangup::Hangup;
use super::life::Life;
use super::routes::{self, Carry};
use super::server::Visit;
use super::websocket::{self, Session};
use super::{Backend, spdy};

/// How long the connection may take to change protocols after the response.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

pub(super) fn answer(mut request: Request<Incoming>, visit: &Visit) -> Answer {
    let shared = &visit.shared;
    let (answer, carry, place) = match routes::agree(&request, shared, &visit.backend) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let carried = Carried {
        life: Life { gone: shared.stop.child_token(), idle: shared.idle, tasks: shared.tasks.clone() },
        hangup: visit.hangup.clone(),
        backend: Arc::clone(&visit.backend),
    };
    let session = shared.sessions.track_future(async move {
        carried.run(upgrade, carry).await;
        drop(place);
    });
    shared.tasks.operation(session);
    answer
}

/// A session whose connection has not changed protocols yet.
struct Carried {
    life: Life,
    hangup: Hangup,
    backend: Arc<dyn Backend>,
}

impl Carried {
    async fn run(self, upgrade: OnUpgrade, carry: Carry) {
        // If the client has gone before it received the response, nothing has been started yet.
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIME, upgrade).await else { return };
        let io = TokioIo::new(upgraded);
        let Self { life, hangup, backend } = self;
        // SPDY stops reading the connection while the reader of one of its streams is slow, so the client's hangup has
        // to be watched for separately.
        match carry {
            Carry::SpdyCommand(protocol, wanted, run) => {
                hangup.watch(&life.gone, spdy::remote_command(io, protocol, wanted, &life, run)).await;
            }
            Carry::SpdyPorts(ask) => {
                hangup.watch(&life.gone, spdy::port_forward(io, &life, backend, ask)).await;
            }
            Carry::WebSocketTunnel(ask) => {
                let io = websocket::tunnel(io).await;
                hangup.watch(&life.gone, spdy::port_forward(io, &life, backend, ask)).await;
            }
            Carry::WebSocketCommand(protocol, wanted, run) => {
                websocket::remote_command(io, protocol, wanted, Session { life, hangup }, run).await;
            }
            Carry::WebSocketPorts(codec, ask) => {
                websocket::port_forward(io, codec, Session { life, hangup }, backend, ask).await;
            }
        }
    }
}
