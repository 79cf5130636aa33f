//! The upgrade to WebSocket (RFC 6455, section 4.2), and the choice of the subprotocol.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use hyper::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::channels::Codec;
use crate::streaming::answer::{Answer, refuse};

/// How an exec or attach session is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::streaming) struct CommandProtocol {
    pub(super) codec: Codec,
    /// Whether the result is a v1.Status rather than a plain sentence.
    pub(super) has_status: bool,
}

/// How a port-forward session is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::streaming) enum PortProtocol {
    /// SPDY in binary messages, as kubectl uses it.
    Tunnel,
    /// Two channels for each port.
    Channels(Codec),
}

/// A client that offers no subprotocol gets the one with the empty name, which is channel.k8s.io.
const COMMANDS: [(&str, CommandProtocol); 6] = [
    ("v5.channel.k8s.io", CommandProtocol { codec: Codec::BinaryWithClose, has_status: true }),
    ("v4.channel.k8s.io", CommandProtocol { codec: Codec::Binary, has_status: true }),
    ("v4.base64.channel.k8s.io", CommandProtocol { codec: Codec::Base64, has_status: true }),
    ("channel.k8s.io", CommandProtocol { codec: Codec::Binary, has_status: false }),
    ("base64.channel.k8s.io", CommandProtocol { codec: Codec::Base64, has_status: false }),
    ("", CommandProtocol { codec: Codec::Binary, has_status: false }),
];

const PORTS: [(&str, PortProtocol); 4] = [
    ("SPDY/3.1+portforward.k8s.io", PortProtocol::Tunnel),
    ("v4.channel.k8s.io", PortProtocol::Channels(Codec::Binary)),
    ("v4.base64.channel.k8s.io", PortProtocol::Channels(Codec::Base64)),
    ("", PortProtocol::Channels(Codec::Binary)),
];

pub(in crate::streaming) fn upgrade_command(headers: &HeaderMap) -> Result<(Answer, CommandProtocol), Box<Answer>> {
    upgrade(headers, &COMMANDS)
}

pub(in crate::streaming) fn upgrade_ports(headers: &HeaderMap) -> Result<(Answer, PortProtocol), Box<Answer>> {
    upgrade(headers, &PORTS)
}

fn upgrade<P: Copy>(headers: &HeaderMap, known: &[(&'static str, P)]) -> Result<(Answer, P), Box<Answer>> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is supported");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map_or(&[][..], |key| key.as_bytes());
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key: not 16 bytes in base64"));
    }
    let Some((name, protocol)) = choose(headers, known) else {
        return Err(refuse(StatusCode::FORBIDDEN, "Sec-WebSocket-Protocol: none of them is supported"));
    };
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key));
    if !name.is_empty() {
        answer = answer.header(SEC_WEBSOCKET_PROTOCOL, name);
    }
    match answer.body(String::new()) {
        Ok(answer) => Ok((answer, protocol)),
        Err(_) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the upgrade could not be answered")),
    }
}

/// Returns the first subprotocol that the client offers and the server supports.
fn choose<P: Copy>(headers: &HeaderMap, known: &[(&'static str, P)]) -> Option<(&'static str, P)> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut offered = values.flat_map(|value| value.split(',')).map(str::trim).peekable();
    let find = |name: &str| known.iter().find(|(known, _)| *known == name).copied();
    if offered.peek().is_none() {
        return find("");
    }
    offered.filter(|name| !name.is_empty()).find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        headers.insert(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        for protocol in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_has_it() {
        let (answer, protocol) = upgrade_command(&headers(&[])).unwrap();
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!answer.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
        assert_eq!(protocol, CommandProtocol { codec: Codec::Binary, has_status: false });
    }

    #[test]
    fn the_clients_first_known_subprotocol_wins() {
        let chosen = |offered: &[&'static str]| {
            upgrade_command(&headers(offered)).map(|(answer, _)| answer.headers()[SEC_WEBSOCKET_PROTOCOL].clone()).ok()
        };
        assert_eq!(
            chosen(&["v9.channel.k8s.io, v5.channel.k8s.io", "v4.channel.k8s.io"]).unwrap(),
            "v5.channel.k8s.io"
        );
        assert_eq!(chosen(&["channel.k8s.io,v4.channel.k8s.io"]).unwrap(), "channel.k8s.io");
        assert_eq!(chosen(&["v9.channel.k8s.io"]), None);
        assert_eq!(upgrade_ports(&headers(&["SPDY/3.1+portforward.k8s.io"])).unwrap().1, PortProtocol::Tunnel);
        assert!(upgrade_ports(&headers(&["v5.channel.k8s.io"])).is_err());
    }

    #[test]
    fn what_is_no_websocket_is_refused() {
        let mut old = headers(&[]);
        old.insert(SEC_WEBSOCKET_VERSION, "8".parse().unwrap());
        assert_eq!(upgrade_command(&old).unwrap_err().status(), StatusCode::UPGRADE_REQUIRED);
        let mut short = headers(&[]);
        short.insert(SEC_WEBSOCKET_KEY, "eHg=".parse().unwrap());
        assert_eq!(upgrade_command(&short).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
