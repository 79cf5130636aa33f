//! Tests of the server over real sockets, with a fake backend in place of containers.

mod server;
mod tls;
mod websocket;

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::ids::{ContainerId, SandboxId};

/// The longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Behaves as the command says, and reports each session that ends.
struct Fake {
    ended: mpsc::UnboundedSender<String>,
}

impl Fake {
    async fn command(command: Vec<String>, mut streams: Streams) -> Result<i32, Failure> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            // Copies stdin to stdout until stdin ends, then writes a word to stderr.
            ["cat", code] => {
                while let Some(bytes) = streams.stdin.as_mut().unwrap().recv().await {
                    streams.stdout.as_mut().unwrap().send(bytes).await.map_err(|gone| Failure(gone.to_string()))?;
                }
                if let Some(stderr) = &mut streams.stderr {
                    let _ = stderr.send(Bytes::from_static(b"done")).await;
                }
                Ok(code.parse().unwrap())
            }
            // Writes the next terminal size to stdout.
            ["stty"] => {
                let size = streams.resize.recv().await.unwrap();
                let text = format!("{} {}", size.width, size.height);
                let _ = streams.stdout.as_mut().unwrap().send(text.into()).await;
                Ok(0)
            }
            // Writes this many bytes to stdout.
            ["yes", count] => {
                let piece = Bytes::from(vec![b'y'; count.parse().unwrap()]);
                let _ = streams.stdout.as_mut().unwrap().send(piece).await;
                Ok(0)
            }
            ["yes"] => {
                let piece = Bytes::from(vec![b'y'; 100_000]);
                while streams.stdout.as_mut().unwrap().send(piece.clone()).await.is_ok() {}
                Ok(0)
            }
            // Reads nothing, and ends when `gone` is cancelled.
            ["sleep"] => {
                streams.gone.cancelled().await;
                Ok(137)
            }
            ["fail"] => Err(Failure("no such task".to_owned())),
            _ => panic!("{command:?}"),
        }
    }
}

impl Backend for Fake {
    fn exec(&self, request: Exec, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>> {
        let ended = self.ended.clone();
        async move {
            let name = request.command.join(" ");
            let result = Self::command(request.command, streams).await;
            let _ = ended.send(name);
            result
        }
        .boxed()
    }

    fn attach(&self, _: Attach, mut streams: Streams) -> BoxFuture<'static, Result<(), Failure>> {
        async move {
            let _ = streams.stdout.as_mut().unwrap().send(Bytes::from_static(b"attached")).await;
            Ok(())
        }
        .boxed()
    }

    /// Sends the port, then echoes what it receives. Port 1 is closed. Port 9 reads nothing, and ends when `gone` is
    /// cancelled.
    fn port_forward(&self, _: SandboxId, port: u16, mut connection: Duplex) -> BoxFuture<'static, Result<(), Failure>> {
        let ended = self.ended.clone();
        async move {
            match port {
                1 => return Err(Failure("connection refused".to_owned())),
                9 => {
                    connection.gone.cancelled().await;
                    let _ = ended.send("port 9".to_owned());
                    return Ok(());
                }
                _ => {}
            }
            let _ = connection.to_client.send(format!("{port}:").into()).await;
            while let Some(bytes) = connection.from_client.recv().await {
                let _ = connection.to_client.send(bytes).await;
            }
            let _ = ended.send(format!("port {port}"));
            Ok(())
        }
        .boxed()
    }
}

/// A server of its own for each test.
struct Bed {
    streaming: Streaming,
    ended: mpsc::UnboundedReceiver<String>,
}

impl Bed {
    fn start() -> Self {
        Self::with(&Settings::default())
    }

    fn with(settings: &Settings) -> Self {
        let (streaming, server) = Streaming::bind(settings, Tasks::default()).unwrap();
        let (sender, ended) = mpsc::unbounded_channel();
        server.serve(Arc::new(Fake { ended: sender }));
        Self { streaming, ended }
    }

    /// Returns the URL of a command with all streams, or with a terminal if the command is `stty`.
    fn exec(&self, command: &str) -> String {
        let tty = command == "stty";
        let command = command.split(' ').map(str::to_owned).collect();
        self.exec_in(SandboxId::random(), command, tty)
    }

    /// Like `exec`, in a container of this sandbox.
    fn exec_in(&self, sandbox: SandboxId, command: Vec<String>, tty: bool) -> String {
        let container = ContainerId::random();
        let request = Exec { sandbox, container, command, tty, stdin: true, stdout: true, stderr: !tty };
        self.streaming.exec_url(request).unwrap()
    }

    fn forward(&self, ports: &[u16]) -> String {
        let request = PortForward { sandbox: SandboxId::random(), ports: ports.to_vec() };
        self.streaming.port_forward_url(request).unwrap()
    }

    /// Waits for a session to end, and returns its name.
    async fn ended(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.ended.recv()).await.expect("no session ended").unwrap()
    }

    /// Waits until no session is left.
    async fn empty(&self) {
        let empty = async {
            while self.streaming.sessions() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("sessions are left");
    }

    async fn connect(&self) -> TcpStream {
        let address = self.streaming.base_url().split_once("//").unwrap().1;
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends a request that must not become a session. Returns the status code and the whole response.
    async fn request(&self, method: &str, url: &str, headers: &str) -> (u16, String) {
        let path = url.strip_prefix(self.streaming.base_url()).unwrap_or(url);
        let mut stream = self.connect().await;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("the connection stays open").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}
