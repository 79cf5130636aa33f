//! A client of the streaming server: v5.channel.k8s.io over WebSocket, as kubectl uses it.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::PATIENCE;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// One session. Dropping it breaks the connection without a close message.
pub struct Session(WebSocketStream<TcpStream>);

/// Everything received until the session's end.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The v1.Status; null if there was none.
    pub status: Value,
}

impl Output {
    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The exit code, as kubectl reads it from the status.
    pub fn exit_code(&self) -> i32 {
        if self.status["status"] == "Success" {
            return 0;
        }
        let causes = self.status["details"]["causes"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        causes.iter().find(|cause| cause["reason"] == "ExitCode").unwrap()["message"].as_str().unwrap().parse().unwrap()
    }

    /// Why the session failed.
    pub fn message(&self) -> &str {
        self.status["message"].as_str().unwrap_or_default()
    }
}

impl Session {
    /// Opens the session of a URL.
    pub async fn open(url: &str) -> Self {
        Self::open_with_protocol("v5.channel.k8s.io", url).await
    }

    /// Like [`Session::open`], with another subprotocol.
    pub async fn open_with_protocol(protocol: &str, url: &str) -> Self {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let address = url.trim_start_matches("http://").split('/').next().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        Self(socket)
    }

    pub async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.0.send(Message::Binary(message.into())).await.unwrap();
    }

    pub async fn close_stdin(&mut self) {
        self.send(CLOSE, &[STDIN]).await;
    }

    pub async fn resize(&mut self, width: u16, height: u16) {
        let size = serde_json::json!({ "Width": width, "Height": height });
        self.send(RESIZE, size.to_string().as_bytes()).await;
    }

    /// The next message, as its channel and its bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a message or the end")?;
            match message.ok()? {
                Message::Binary(bytes) if !bytes.is_empty() => return Some((bytes[0], bytes[1..].to_vec())),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Reads until at least `count` bytes of a channel have arrived.
    pub async fn read(&mut self, channel: u8, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let (of, bytes) = self.next().await.unwrap_or_else(|| panic!("the end after {all:?}"));
            if of == channel {
                all.extend(bytes);
            }
        }
        all
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Output {
        let mut output = Output::default();
        while let Some((channel, bytes)) = self.next().await {
            match channel {
                STDOUT => output.stdout.extend(bytes),
                STDERR => output.stderr.extend(bytes),
                STATUS => output.status = serde_json::from_slice(&bytes).unwrap(),
                _ => {}
            }
        }
        output
    }
}
