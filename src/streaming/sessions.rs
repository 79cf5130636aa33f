//! Starts the session of an accepted request: a separate tracked operation, which ends on its own.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::answer::Answer;
use super::hangup::Hangup;
use super::life::SessionContext;
use super::routes::{self, Carrier};
use super::server::RequestContext;
use super::websocket::{self, Session};
use super::{Backend, spdy};

/// How long the connection may take to change protocols after the response.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

pub(super) fn answer(mut request: Request<Incoming>, request_context: &RequestContext) -> Answer {
    let shared = &request_context.shared;
    let (answer, carrier, slot) = match routes::accept_request(&request, shared, &request_context.backend) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let pending = PendingSession {
        context: SessionContext { gone: shared.stop.child_token(), idle: shared.idle, tasks: shared.tasks.clone() },
        hangup: request_context.hangup.clone(),
        backend: Arc::clone(&request_context.backend),
    };
    let session = shared.sessions.track_future(async move {
        pending.run(upgrade, carrier).await;
        drop(slot);
    });
    shared.tasks.operation(session);
    answer
}

/// A session whose connection has not changed protocols yet.
struct PendingSession {
    context: SessionContext,
    hangup: Hangup,
    backend: Arc<dyn Backend>,
}

impl PendingSession {
    async fn run(self, upgrade: OnUpgrade, carrier: Carrier) {
        // If the client has gone before it received the response, nothing has been started yet.
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIME, upgrade).await else { return };
        let io = TokioIo::new(upgraded);
        let Self { context, hangup, backend } = self;
        // SPDY stops reading the connection while the reader of one of its streams is slow, so the client's hangup has
        // to be watched for separately.
        match carrier {
            Carrier::SpdyCommand(protocol, wanted, run) => {
                hangup.watch(&context.gone, spdy::remote_command(io, protocol, wanted, &context, run)).await;
            }
            Carrier::SpdyPorts(forward) => {
                hangup.watch(&context.gone, spdy::port_forward(io, &context, backend, forward)).await;
            }
            Carrier::WebSocketTunnel(forward) => {
                let io = websocket::tunnel(io).await;
                hangup.watch(&context.gone, spdy::port_forward(io, &context, backend, forward)).await;
            }
            Carrier::WebSocketCommand(protocol, wanted, run) => {
                websocket::remote_command(io, protocol, wanted, Session { context, hangup }, run).await;
            }
            Carrier::WebSocketPorts(codec, forward) => {
                websocket::port_forward(io, codec, Session { context, hangup }, backend, forward).await;
            }
        }
    }
}
