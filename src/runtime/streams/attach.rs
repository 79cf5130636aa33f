//! Attach: a client at the streams of a running container.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::api::v1::{AttachRequest, AttachResponse};
use crate::container::Container;
use crate::container::io::{self, Chunk, SUBSCRIBER_LAG, StreamName};
use crate::runtime::lookup::require_running;
use crate::runtime::streams::exec::{UNCLAIMED, check_streams};
use crate::runtime::streams::run_exec::latest;
use crate::runtime::{Error, Node, Result};
use crate::slots::Slot;
use crate::streaming::{self, Failure, Input, Sink, Size, Streaming, Streams};
use crate::telemetry::Stream;

/// How often a client that does not read is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// What there can be too many of.
const CLIENTS: &str = "clients are attached (limits.streams, limits.streams_per_object)";

/// Answers where the client finds the container's streams.
///
/// # Errors
/// [`Error::Invalid`] for streams that cannot be had together; [`Error::State`] unless the container runs;
/// [`Error::Exhausted`] when as many clients are attached as may be, or as many URLs wait.
pub fn attach(node: &Node, streaming: &Streaming, request: &AttachRequest) -> Result<AttachResponse> {
    let container = node.container(&request.container_id)?;
    check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
    require_running(&container)?;
    take_slot(node, &container)?;
    let ask = streaming::Attach {
        sandbox: container.sandbox().clone(),
        container: container.id().clone(),
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let url = streaming.attach_url(ask).map_err(|_| Error::Exhausted(UNCLAIMED))?;
    Ok(AttachResponse { url })
}

fn take_slot(node: &Node, container: &Container) -> Result<Slot> {
    let slot = node.streams_open.try_take(container.sandbox().as_str(), container.id().as_str());
    slot.ok_or(Error::Exhausted(CLIENTS))
}

/// Follows the container until it ends, or the client has gone, or does not keep up. The log never waits for a client.
pub(crate) async fn attach_session(
    node: Arc<Node>,
    ask: streaming::Attach,
    streams: Streams,
) -> std::result::Result<(), Failure> {
    let _alive = node.metrics.stream(Stream::Attach);
    run(&node, ask, streams).await.map_err(|error| Failure(error.chain()))
}

async fn run(node: &Node, ask: streaming::Attach, streams: Streams) -> Result<()> {
    let container = node.container(ask.container.as_str())?;
    // It may have ended since the URL was made.
    require_running(&container)?;
    let _slot = take_slot(node, &container)?;
    let Some(io) = container.streams() else {
        let source = io::Error::Finished(ask.container.clone());
        return Err(Error::Io { id: ask.container.to_string(), source });
    };
    let wants_output = streams.stdout.is_some() || streams.stderr.is_some();
    let client = Client { stdout: streams.stdout, stderr: streams.stderr, chunks: io.subscribe() };
    let stdin = streams.stdin.zip(io.stdin());
    // Of kubelet's "once" with a terminal, users expect that they can attach again: `kubectl run -it`.
    let once = io.stdin_once() && !container.record.config.tty && stdin.is_some();
    let output = client.follow(&container);
    let input = feed(stdin);
    let resize = resize(&container, streams.resize);
    tokio::pin!(output, input, resize);
    let (mut fed, mut resized) = (false, false);
    let result = loop {
        tokio::select! {
            () = streams.gone.cancelled() => break Ok(()),
            ended = &mut output => break ended,
            () = &mut input, if !fed => {
                fed = true;
                // Without "once", a client whose input is at its end has detached, as with containerd's CRI.
                if !once || !wants_output {
                    break Ok(());
                }
                close_stdin(&container, &*io).await;
            }
            () = &mut resize, if !resized => resized = true,
        }
    };
    if once && !fed {
        close_stdin(&container, &*io).await;
    }
    result
}

/// The first client that had stdin has left it: nobody gets it again.
async fn close_stdin(container: &Container, io: &dyn io::Streams) {
    io.close_stdin();
    // The shim holds a write end too.
    if let Err(error) = container.task().close_stdin().await {
        tracing::debug!(container = %container.id(), %error, "stdin could not be closed");
    }
}

/// Copies the client's input to its end. Pends for ever when there is none: nothing ends with it.
async fn feed(stdin: Option<(Input, Arc<pipe::Sender>)>) {
    let Some((mut input, pipe)) = stdin else { return std::future::pending().await };
    while let Some(bytes) = input.recv().await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if pipe.writable().await.is_err() {
                return;
            }
            match pipe.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // The container has closed its end; what the client still types is nobody's.
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

async fn resize(container: &Container, mut sizes: mpsc::Receiver<Size>) {
    if !container.record.config.tty {
        return;
    }
    while let Some(size) = latest(&mut sizes).await {
        if let Err(error) = container.task().resize_terminal(size).await {
            tracing::debug!(container = %container.id(), %error, "the terminal could not be resized");
        }
    }
}

/// The output side.
struct Client {
    stdout: Option<Box<dyn Sink>>,
    stderr: Option<Box<dyn Sink>>,
    chunks: Receiver<Chunk>,
}

impl Client {
    async fn follow(mut self, container: &Container) -> Result<()> {
        while self.stdout.is_some() || self.stderr.is_some() {
            let next = tokio::select! {
                // First: what a container said last is told, and it has ended only when all of it was read.
                biased;
                chunk = self.chunks.recv() => chunk,
                () = container.ended() => break,
            };
            match next {
                Ok(chunk) => self.pass_on(chunk, container).await?,
                Err(RecvError::Lagged(_)) => return Err(too_slow(container)),
                Err(RecvError::Closed) => break,
            }
        }
        for mut sink in [self.stdout, self.stderr].into_iter().flatten() {
            sink.finish().await;
        }
        // Who listens to nothing, or no more, misses nothing either: it may type until the container ends.
        drop(self.chunks);
        container.ended().await;
        Ok(())
    }

    async fn pass_on(&mut self, chunk: Chunk, container: &Container) -> Result<()> {
        let sink = match chunk.stream {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        };
        let Some(open) = sink else { return Ok(()) };
        let sent = {
            let send = open.send(chunk.bytes);
            tokio::pin!(send);
            loop {
                tokio::select! {
                    sent = &mut send => break sent,
                    () = tokio::time::sleep(LOOK) => {
                        // Before it reads again, or never: what it missed is gone.
                        if self.chunks.len() > SUBSCRIBER_LAG {
                            return Err(too_slow(container));
                        }
                    }
                }
            }
        };
        if sent.is_err() {
            *sink = None;
        }
        Ok(())
    }
}

fn too_slow(container: &Container) -> Error {
    Error::TooSlow { id: container.id().to_string() }
}
