//! Turns an HTTP request into a session: the path contains a token, and the headers select the protocol.
//!
//! As in kubelet's server library (k8s.io/cri-streaming), a request uses its token up even if the rest of the request
//! is wrong. Only the responses 405 and 503 leave the token valid.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Answer, refuse};
use super::protocol::{Protocol, Wanted};
use super::tokens::{PendingRequest, RedeemError};
use super::websocket::{self, Codec, CommandProtocol, PortProtocol};
use super::{Backend, Failure, PortForward, Shared, Streams};
use crate::slots::Slot;

/// The headers for the protocols that a SPDY client offers (and the one chosen), and for those that the server
/// supports.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The only protocol of port-forward over SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// Runs a command, or attaches to a container, with a client's streams.
pub(super) type Run = Box<dyn FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>> + Send>;

/// A session, and the protocol that carries it.
pub(super) enum Carrier {
    SpdyCommand(Protocol, Wanted, Run),
    SpdyPorts(PortForward),
    WebSocketCommand(CommandProtocol, Wanted, Run),
    WebSocketTunnel(PortForward),
    WebSocketPorts(Codec, PortForward),
}

/// What a session does, whichever protocol carries it.
enum Work {
    Command(Wanted, Run),
    Ports(PortForward),
}

/// The protocol family that a request selects.
#[derive(Clone, Copy)]
enum Dialect {
    Spdy,
    WebSocket,
}

/// Returns the session that a request starts, the session's slot, and the HTTP response; or the response that rejects
/// the request.
pub(super) fn accept_request<B>(
    request: &Request<B>,
    shared: &Shared,
    backend: &Arc<dyn Backend>,
) -> Result<(Answer, Carrier, Slot), Box<Answer>> {
    let (pending, slot) = redeem(request, shared)?;
    let (answer, carrier) = carrier(request, pending, backend)?;
    Ok((answer, carrier, slot))
}

fn carrier<B>(
    request: &Request<B>,
    pending: PendingRequest,
    backend: &Arc<dyn Backend>,
) -> Result<(Answer, Carrier), Box<Answer>> {
    let headers = request.headers();
    match (work(pending, backend), dialect(headers)?) {
        (Work::Command(wanted, run), Dialect::Spdy) => {
            let protocol = Protocol::negotiate(&offered(headers)?);
            let names: Vec<_> = Protocol::ALL.iter().map(|protocol| protocol.as_str()).collect();
            let protocol = protocol.ok_or_else(|| none_of(&names))?;
            Ok((switch_to_spdy(protocol.as_str()), Carrier::SpdyCommand(protocol, wanted, run)))
        }
        (Work::Ports(forward), Dialect::Spdy) => {
            let known =
                offered(headers)?.iter().flat_map(|value| value.split(',')).any(|name| name.trim() == PORT_FORWARD);
            if !known {
                return Err(none_of(&[PORT_FORWARD]));
            }
            Ok((switch_to_spdy(PORT_FORWARD), Carrier::SpdyPorts(forward)))
        }
        (Work::Command(wanted, run), Dialect::WebSocket) => {
            let (answer, protocol) = websocket::upgrade_command(headers)?;
            Ok((answer, Carrier::WebSocketCommand(protocol, wanted, run)))
        }
        (Work::Ports(forward), Dialect::WebSocket) => match websocket::upgrade_ports(headers)? {
            (answer, PortProtocol::Tunnel) => Ok((answer, Carrier::WebSocketTunnel(forward))),
            (answer, PortProtocol::Channels(codec)) => {
                let ports = ports(forward.ports, request.uri().query())?;
                Ok((answer, Carrier::WebSocketPorts(codec, PortForward { ports, ..forward })))
            }
        },
    }
}

/// Redeems the token in the path, and takes a slot for the session. Unknown paths and unknown tokens get the same
/// response. If no slot is free, the token stays valid, so that the client can try again.
fn redeem<B>(request: &Request<B>, shared: &Shared) -> Result<(PendingRequest, Slot), Box<Answer>> {
    let not_found = || refuse(StatusCode::NOT_FOUND, "not found");
    let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
    let (verb, token) =
        path.filter(|(verb, _)| ["exec", "attach", "portforward"].contains(verb)).ok_or_else(not_found)?;
    if ![Method::GET, Method::POST].contains(request.method()) {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"));
    }
    let (pending, slot) = shared
        .tokens
        .redeem(token, |pending| shared.slots.try_take(pending.sandbox().as_str(), ""))
        .map_err(|error| match error {
            RedeemError::Unknown => not_found(),
            RedeemError::NoSlot => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many sessions"),
        })?;
    match (verb, pending) {
        ("exec", pending @ PendingRequest::Exec(_))
        | ("attach", pending @ PendingRequest::Attach(_))
        | ("portforward", pending @ PendingRequest::PortForward(_)) => Ok((pending, slot)),
        _ => Err(not_found()),
    }
}

fn work(pending: PendingRequest, backend: &Arc<dyn Backend>) -> Work {
    let backend = Arc::clone(backend);
    match pending {
        PendingRequest::Exec(exec) => {
            let wanted = Wanted { stdin: exec.stdin, stdout: exec.stdout, stderr: exec.stderr, tty: exec.tty };
            Work::Command(wanted, Box::new(move |streams| backend.exec(exec, streams)))
        }
        PendingRequest::Attach(attach) => {
            let wanted = Wanted { stdin: attach.stdin, stdout: attach.stdout, stderr: attach.stderr, tty: attach.tty };
            // The exit code of the attached container is not part of an attach session.
            let run = move |streams| backend.attach(attach, streams).map(|ended| ended.map(|()| 0)).boxed();
            Work::Command(wanted, Box::new(run))
        }
        PendingRequest::PortForward(forward) => Work::Ports(forward),
    }
}

fn dialect(headers: &HeaderMap) -> Result<Dialect, Box<Answer>> {
    let names = |header: &HeaderName, name: &str| {
        let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(name))
    };
    if !names(&CONNECTION, "upgrade") {
        return Err(refuse(StatusCode::BAD_REQUEST, "an upgrade to SPDY/3.1 or websocket is wanted"));
    }
    if names(&UPGRADE, "websocket") {
        return Ok(Dialect::WebSocket);
    }
    if names(&UPGRADE, "spdy/3.1") {
        return Ok(Dialect::Spdy);
    }
    Err(refuse(StatusCode::BAD_REQUEST, "Upgrade: neither SPDY/3.1 nor websocket"))
}

/// The protocols that a SPDY client offers.
fn offered(headers: &HeaderMap) -> Result<Vec<&str>, Box<Answer>> {
    let offered: Vec<_> = headers.get_all(PROTOCOL_VERSION).iter().filter_map(|value| value.to_str().ok()).collect();
    if offered.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "X-Stream-Protocol-Version is missing"));
    }
    Ok(offered)
}

/// Rejects the request and lists the supported protocols; client-go falls back to one of them.
fn none_of(known: &[&'static str]) -> Box<Answer> {
    let mut answer = refuse(StatusCode::FORBIDDEN, "X-Stream-Protocol-Version: none of them is supported");
    for name in known {
        answer.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
    }
    answer
}

fn switch_to_spdy(protocol: &'static str) -> Answer {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    answer.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    answer
}

/// The ports to forward over channels: those of the RPC, or, if the RPC named none, those in the query
/// (`port=80&port=443,8443`).
fn ports(of_rpc: Vec<u16>, query: Option<&str>) -> Result<Vec<u16>, Box<Answer>> {
    let wrong = || refuse(StatusCode::BAD_REQUEST, "port: 1 to 32 ports, each from 1 to 65535, are required");
    let mut ports = of_rpc;
    if ports.is_empty() {
        let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("port="));
        // As in any query, a comma may be percent-encoded.
        let list = values.map(|value| value.replace("%2C", ",").replace("%2c", ",")).collect::<Vec<_>>().join(",");
        ports = list.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    }
    if ports.contains(&0) || ports.is_empty() || ports.len() > websocket::MOST_PORTS {
        return Err(wrong());
    }
    Ok(ports)
}
