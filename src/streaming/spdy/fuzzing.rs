//! The functions that `fuzz/` calls. The unit tests call them with the corpus.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, HEAD, LARGEST_CONTROL, Parser};
use super::{port_forward, remote_command};
use crate::ids::SandboxId;
use crate::streaming::life::SessionContext;
use crate::streaming::protocol::{Protocol, Wanted};
use crate::streaming::{Attach, Backend, Duplex, Exec, Failure, PortForward, Streams};
use crate::tasks::Tasks;

/// Runs the parser on the bytes in steps; the first byte sets the length of the steps.
///
/// # Panics
/// If the parser buffers more than one control frame, or returns more data than it was given.
pub fn frames(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let step = usize::from(*step) * 16 + 1;
    let (mut parser, mut input, mut data) = (Parser::default(), BytesMut::new(), 0);
    for step in bytes.chunks(step) {
        input.extend_from_slice(step);
        loop {
            match parser.next(&mut input) {
                Ok(Some(Frame::Data { piece, .. })) => data += piece.len(),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(input.len() < HEAD + LARGEST_CONTROL, "more is kept than a control frame");
        assert!(data <= bytes.len(), "more data than was sent");
    }
}

/// Runs a whole session on a connection that carries these bytes and then ends. The first byte selects the kind of
/// session, its protocol and its streams.
///
/// # Panics
/// If the session does not end when its client goes.
pub fn session(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    let (client, server) = tokio::io::duplex(4096);
    let tasks = Tasks::default();
    let context =
        SessionContext { gone: CancellationToken::new(), idle: Duration::from_secs(60), tasks: tasks.clone() };
    let protocol = Protocol::ALL[usize::from(*kind) % Protocol::ALL.len()];
    let wanted = Wanted { stdin: kind & 4 != 0, stdout: true, stderr: kind & 8 != 0, tty: kind & 16 != 0 };
    runtime.block_on(async {
        let serve = async {
            if kind & 32 == 0 {
                let run = |streams| Echo.run(streams);
                remote_command(server, protocol, wanted, &context, run).await;
            } else {
                let forward = PortForward { sandbox: SandboxId::random(), ports: Vec::new() };
                port_forward(server, &context, Arc::new(Echo), forward).await;
            }
        };
        let (mut reader, mut writer) = tokio::io::split(client);
        let write = async {
            // Fails if the server has closed the connection.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let read = async {
            let mut sent = vec![0; 4096];
            while reader.read(&mut sent).await.is_ok_and(|length| length > 0) {}
        };
        let all = futures_util::future::join3(serve, write, read);
        let ended = tokio::time::timeout(Duration::from_secs(20), all).await;
        assert!(ended.is_ok(), "the session goes on without its client");
        assert_eq!(tasks.in_flight(), 0, "nothing is left of it");
    });
}

/// Sends back what it receives.
struct Echo;

impl Echo {
    fn run(&self, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>> {
        async move {
            let Streams { stdin, stdout, stderr, mut resize, gone } = streams;
            if let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) {
                while let Some(piece) = stdin.recv().await {
                    stdout.send(piece).await.map_err(|gone| Failure(gone.to_string()))?;
                }
            }
            while resize.recv().await.is_some() {}
            drop((stderr, gone));
            Ok(0)
        }
        .boxed()
    }
}

impl Backend for Echo {
    fn exec(&self, _: Exec, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>> {
        self.run(streams)
    }

    fn attach(&self, _: Attach, streams: Streams) -> BoxFuture<'static, Result<(), Failure>> {
        let run = self.run(streams);
        async move { run.await.map(|_| ()) }.boxed()
    }

    fn port_forward(&self, _: SandboxId, _: u16, connection: Duplex) -> BoxFuture<'static, Result<(), Failure>> {
        let Duplex { mut from_client, mut to_client, .. } = connection;
        async move {
            while let Some(piece) = from_client.recv().await {
                to_client.send(piece).await.map_err(|gone| Failure(gone.to_string()))?;
            }
            Ok(())
        }
        .boxed()
    }
}
