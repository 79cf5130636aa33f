//! Attach: connects a client to the streams of a running container.

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
use crate::runtime::streams::exec::{TOO_MANY_UNCLAIMED, check_streams};
use crate::runtime::streams::run_exec::latest;
use crate::runtime::{Error, Node, Result};
use crate::slots::Slot;
use crate::streaming::{self, Failure, Input, Sink, Size, Streaming, Streams};
use crate::telemetry::Stream;

/// How often a client that does not read is checked.
const LOOK: Duration = Duration::from_millis(250);
/// What [`Error::Exhausted`] says there are too many of.
const TOO_MANY_CLIENTS: &str = "clients are attached (limits.streams, limits.streams_per_object)";

/// Returns the URL at which the client finds the container's streams.
///
/// # Errors
/// [`Error::Invalid`] for streams that cannot be combined; [`Error::State`] unless the container is running;
/// [`Error::Exhausted`] if too many clients are attached, or too many URLs are unused.
pub fn attach(node: &Node, streaming: &Streaming, request: &AttachRequest) -> Result<AttachResponse> {
    let container = node.container(&request.container_id)?;
    check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
    require_running(&container)?;
    take_slot(node, &container)?;
    let request = streaming::Attach {
        sandbox: container.sandbox().clone(),
        container: container.id().clone(),
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    let url = streaming.attach_url(request).map_err(|_| Error::Exhausted(TOO_MANY_UNCLAIMED))?;
    Ok(AttachResponse { url })
}

fn take_slot(node: &Node, container: &Container) -> Result<Slot> {
    let slot = node.limits.streams.try_take(container.sandbox().as_str(), container.id().as_str());
    slot.ok_or(Error::Exhausted(TOO_MANY_CLIENTS))
}

/// Follows the container until it ends, the client leaves, or the client does not keep up. The log never waits for a
/// client.
pub(crate) async fn attach_session(
    node: Arc<Node>,
    request: streaming::Attach,
    streams: Streams,
) -> std::result::Result<(), Failure> {
    let _alive = node.tasks.operations().metrics().stream(Stream::Attach);
    run(&node, request, streams).await.map_err(|error| Failure(error.chain()))
}

async fn run(node: &Node, request: streaming::Attach, streams: Streams) -> Result<()> {
    let container = node.container(request.container.as_str())?;
    // It may have ended since the URL was created.
    require_running(&container)?;
    let _slot = take_slot(node, &container)?;
    let Some(io) = container.streams() else {
        let source = io::Error::Finished(request.container.clone());
        return Err(Error::Io { id: request.container.to_string(), source });
    };
    let wants_output = streams.stdout.is_some() || streams.stderr.is_some();
    let client = Client { stdout: streams.stdout, stderr: streams.stderr, chunks: io.subscribe() };
    let stdin = streams.stdin.zip(io.stdin());
    // With a terminal, kubelet's "once" is ignored: users expect that they can attach again (`kubectl run -it`).
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
                // Without "once", a client whose input ends has detached, as with containerd's CRI plugin.
                if !once || !wants_output {
                    break Ok(());
                }
                close_stdin(&container, &io).await;
            }
            () = &mut resize, if !resized => resized = true,
        }
    };
    if once && !fed {
        close_stdin(&container, &io).await;
    }
    result
}

/// The first client that had stdin has left it: no other client gets it.
async fn close_stdin(container: &Container, io: &io::Streams) {
    io.close_stdin();
    // The shim has a write end open, too.
    if let Err(error) = container.task().close_stdin().await {
        tracing::debug!(%error, "stdin could not be closed");
    }
}

/// Copies the client's input to its end. Without input it never resolves, so that the session does not end.
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
                // The container has closed its end. What the client still types is ignored.
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
            tracing::debug!(%error, "the terminal could not be resized");
        }
    }
}

/// The output side of a client.
struct Client {
    stdout: Option<Box<dyn Sink>>,
    stderr: Option<Box<dyn Sink>>,
    chunks: Receiver<Chunk>,
}

impl Client {
    async fn follow(mut self, container: &Container) -> Result<()> {
        while self.stdout.is_some() || self.stderr.is_some() {
            let next = tokio::select! {
                // Polled first, so that the container's last output is sent: it has ended only when all of its output
                // was read.
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
        // A client that reads no output, or no more, cannot miss any. It may type until the container ends.
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
                        // Checked before the client reads again, which it may never do: what it missed is lost.
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
