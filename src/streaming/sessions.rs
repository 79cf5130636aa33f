//! A request that was agreed to becomes a session: a tracked operation of its own, which ends by itself.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::answer::{Answer, refuse};
use super::routes::{self, Carry};
use super::server::Visit;
use super::websocket::{self, Session};
use super::{Backend, spdy};
use crate::tasks::Tasks;

/// How long the change of protocol may take once it was answered.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// Answers a request.
pub(super) fn answer(mut request: Request<Incoming>, visit: &Visit) -> Answer {
    let shared = &visit.shared;
    // Before the token is looked at: it is not lost to a client that has to come again.
    let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
        return *refuse(StatusCode::SERVICE_UNAVAILABLE, "too many sessions");
    };
    let (answer, carry) = match routes::agree(&request, &shared.tokens, &visit.backend) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let carried = Carried {
        session: Session { gone: shared.stop.child_token(), idle: shared.idle, hangup: visit.hangup.clone() },
        backend: Arc::clone(&visit.backend),
        tasks: shared.tasks.clone(),
    };
    let session = shared.sessions.track_future(async move {
        carried.run(upgrade, carry).await;
        drop(place);
    });
    shared.tasks.operation(session);
    answer
}

/// A session before its connection has changed protocols.
struct Carried {
    session: Session,
    backend: Arc<dyn Backend>,
    tasks: Tasks,
}

impl Carried {
    async fn run(self, upgrade: OnUpgrade, carry: Carry) {
        // The client may be gone before it has the answer: then nothing has begun.
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIME, upgrade).await else { return };
        let io = TokioIo::new(upgraded);
        let Self { session, backend, tasks } = self;
        let Session { gone, idle, hangup } = session.clone();
        // SPDY reads no further while one of its streams is not read, so that the client is watched from outside.
        match carry {
            Carry::SpdyCommand(protocol, wanted, run) => {
                let ended = gone.clone();
                let serve = spdy::remote_command(io, protocol, wanted, wanted.tty, &tasks, gone, idle, run);
                hangup.watch(ended, serve).await;
            }
            Carry::SpdyPorts(ask) => {
                hangup.watch(gone.clone(), spdy::port_forward(io, &tasks, gone, idle, backend, ask)).await;
            }
            Carry::WebSocketTunnel(ask) => {
                let io = websocket::tunnel(io).await;
                hangup.watch(gone.clone(), spdy::port_forward(io, &tasks, gone, idle, backend, ask)).await;
            }
            Carry::WebSocketCommand(protocol, wanted, run) => {
                websocket::remote_command(io, protocol, wanted, session, run).await;
            }
            Carry::WebSocketPorts(codec, ask) => {
                websocket::port_forward(io, codec, session, backend, ask).await;
            }
        }
    }
}
