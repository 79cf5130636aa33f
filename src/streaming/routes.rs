//! From a request to a session: the path names a token, the headers how the client wants to speak.
//!
//! As kubelet's server library (k8s.io/cri-streaming) has it: a token is used up by whoever shows it, also when the rest
//! of the request is wrong.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Answer, refuse};
use super::protocol::{Protocol, Wanted};
use super::tokens::{Ask, NotTaken};
use super::websocket::{self, Codec, CommandProtocol, PortProtocol};
use super::{Backend, Failure, PortForward, Shared, Streams};
use crate::slots::Slot;

/// How a client of SPDY names what it speaks, and is told what is chosen, or what could be.
const SPOKEN: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The only protocol of port-forward over SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// Runs a command, or follows a container, with a client's streams.
pub(super) type Run = Box<dyn FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>> + Send>;

/// A session and how it is carried.
pub(super) enum Carry {
    SpdyCommand(Protocol, Wanted, Run),
    SpdyPorts(PortForward),
    WebSocketCommand(CommandProtocol, Wanted, Run),
    WebSocketTunnel(PortForward),
    WebSocketPorts(Codec, PortForward),
}

/// What a session is connected to.
enum Work {
    Command(Wanted, Run),
    Ports(PortForward),
}

/// The protocol family that a request asks for.
#[derive(Clone, Copy)]
enum Dialect {
    Spdy,
    WebSocket,
}

/// The session that a request begins, its place among all sessions, and the answer to it; or the answer that refuses it.
pub(super) fn agree<B>(
    request: &Request<B>,
    shared: &Shared,
    backend: &Arc<dyn Backend>,
) -> Result<(Answer, Carry, Slot), Box<Answer>> {
    let (ask, place) = redeem(request, shared)?;
    let (answer, carry) = carry(request, ask, backend)?;
    Ok((answer, carry, place))
}

fn carry<B>(request: &Request<B>, ask: Ask, backend: &Arc<dyn Backend>) -> Result<(Answer, Carry), Box<Answer>> {
    let headers = request.headers();
    match (work(ask, backend), dialect(headers)?) {
        (Work::Command(wanted, run), Dialect::Spdy) => {
            let protocol = Protocol::negotiate(&offered(headers)?);
            let names: Vec<_> = Protocol::ALL.iter().map(|protocol| protocol.as_str()).collect();
            let protocol = protocol.ok_or_else(|| none_of(&names))?;
            Ok((switch_to_spdy(protocol.as_str()), Carry::SpdyCommand(protocol, wanted, run)))
        }
        (Work::Ports(ask), Dialect::Spdy) => {
            let known =
                offered(headers)?.iter().flat_map(|value| value.split(',')).any(|name| name.trim() == PORT_FORWARD);
            if !known {
                return Err(none_of(&[PORT_FORWARD]));
            }
            Ok((switch_to_spdy(PORT_FORWARD), Carry::SpdyPorts(ask)))
        }
        (Work::Command(wanted, run), Dialect::WebSocket) => {
            let (answer, protocol) = websocket::upgrade_command(headers)?;
            Ok((answer, Carry::WebSocketCommand(protocol, wanted, run)))
        }
        (Work::Ports(ask), Dialect::WebSocket) => match websocket::upgrade_ports(headers)? {
            (answer, PortProtocol::Tunnel) => Ok((answer, Carry::WebSocketTunnel(ask))),
            (answer, PortProtocol::Channels(codec)) => {
                let ports = ports(ask.ports, request.uri().query())?;
                Ok((answer, Carry::WebSocketPorts(codec, PortForward { ports, ..ask })))
            }
        },
    }
}

/// What the path's token was handed out for, and a place for its session. Paths and tokens that are not known are answered
/// alike. Without a place the token is not lost to a client that has to come again.
fn redeem<B>(request: &Request<B>, shared: &Shared) -> Result<(Ask, Slot), Box<Answer>> {
    let not_found = || refuse(StatusCode::NOT_FOUND, "not found");
    let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
    let (verb, token) =
        path.filter(|(verb, _)| ["exec", "attach", "portforward"].contains(verb)).ok_or_else(not_found)?;
    if ![Method::GET, Method::POST].contains(request.method()) {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"));
    }
    let (ask, place) =
        shared.tokens.take(token, |ask| shared.places.try_take(ask.sandbox().as_str(), "")).map_err(|not_taken| {
            match not_taken {
                NotTaken::Unknown => not_found(),
                NotTaken::NotNow => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many sessions"),
            }
        })?;
    match (verb, ask) {
        ("exec", ask @ Ask::Exec(_))
        | ("attach", ask @ Ask::Attach(_))
        | ("portforward", ask @ Ask::PortForward(_)) => Ok((ask, place)),
        _ => Err(not_found()),
    }
}

fn work(ask: Ask, backend: &Arc<dyn Backend>) -> Work {
    let backend = Arc::clone(backend);
    match ask {
        Ask::Exec(ask) => {
            let wanted = Wanted { stdin: ask.stdin, stdout: ask.stdout, stderr: ask.stderr, tty: ask.tty };
            Work::Command(wanted, Box::new(move |streams| backend.exec(ask, streams)))
        }
        Ask::Attach(ask) => {
            let wanted = Wanted { stdin: ask.stdin, stdout: ask.stdout, stderr: ask.stderr, tty: ask.tty };
            // An attached container's own exit code is nobody's here.
            let run = move |streams| backend.attach(ask, streams).map(|ended| ended.map(|()| 0)).boxed();
            Work::Command(wanted, Box::new(run))
        }
        Ask::PortForward(ask) => Work::Ports(ask),
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

/// What a client of SPDY offers to speak.
fn offered(headers: &HeaderMap) -> Result<Vec<&str>, Box<Answer>> {
    let offered: Vec<_> = headers.get_all(SPOKEN).iter().filter_map(|value| value.to_str().ok()).collect();
    if offered.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "X-Stream-Protocol-Version is not there"));
    }
    Ok(offered)
}

/// Says which protocols there are; client-go falls back to one of them.
fn none_of(known: &[&'static str]) -> Box<Answer> {
    let mut answer = refuse(StatusCode::FORBIDDEN, "X-Stream-Protocol-Version: none of them is spoken here");
    for name in known {
        answer.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
    }
    answer
}

fn switch_to_spdy(protocol: &'static str) -> Answer {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    answer.headers_mut().insert(SPOKEN, HeaderValue::from_static(protocol));
    answer
}

/// The ports of channels: those of the RPC, or the query's (`port=80&port=443,8443`) when it named none.
fn ports(of_rpc: Vec<u16>, query: Option<&str>) -> Result<Vec<u16>, Box<Answer>> {
    let wrong = || refuse(StatusCode::BAD_REQUEST, "port: from 1 to 65535, one at least and 32 at most");
    let mut ports = of_rpc;
    if ports.is_empty() {
        let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("port="));
        // A comma may be spelt out, as in all queries.
        let list = values.map(|value| value.replace("%2C", ",").replace("%2c", ",")).collect::<Vec<_>>().join(",");
        ports = list.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    }
    if ports.contains(&0) || ports.is_empty() || ports.len() > websocket::MOST_PORTS {
        return Err(wrong());
    }
    Ok(ports)
}
