//! Exec and attach over SPDY: one stream for each of the command's streams, one for terminal sizes, and one for the
//! result.

use bytes::Bytes;
use futures_util::future::{self, BoxFuture, Either};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::CREATION;
use super::session::{Incoming, Session};
use super::sink::StreamSink;
use crate::streaming::life::SessionContext;
use crate::streaming::protocol::{Protocol, Wanted};
use crate::streaming::{Failure, Input, Sink, Size, Streams, remote_status, resize};

/// Maximum number of streams in a session at a time: there are five kinds, each used once.
const MOST_STREAMS: usize = 8;
/// Maximum number of terminal sizes queued for the backend.
const MOST_SIZES: usize = 4;

/// Serves one exec or attach on a connection that was upgraded to SPDY/3.1: waits for the client to open the requested
/// streams, runs the session, and sends the result. An attach ends with exit code 0.
///
/// `run` is not called if the client does not open its streams within 30 s.
pub(in crate::streaming) async fn remote_command<T>(
    io: T,
    protocol: Protocol,
    wanted: Wanted,
    context: &SessionContext,
    run: impl FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>> + Send,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut session = Session::start(io, MOST_STREAMS, context);
    let mut opened = Opened::default();
    let complete = opened.wait(&mut session, protocol, wanted).await;
    session.stop_accepting();
    let outcome = match complete {
        Ok(()) => opened.run(session.gone(), run).await,
        Err(failure) => Err(failure),
    };
    opened.end(protocol, outcome).await;
    session.close().await;
}

/// Both halves of a stream.
type Halves = (Input, StreamSink);

/// The streams that the client has opened.
#[derive(Default)]
struct Opened {
    error: Option<Halves>,
    stdin: Option<Halves>,
    stdout: Option<Halves>,
    stderr: Option<Halves>,
    resize: Option<Halves>,
}

impl Opened {
    /// Waits until the client has opened all streams.
    async fn wait(&mut self, session: &mut Session, protocol: Protocol, wanted: Wanted) -> Result<(), Failure> {
        let deadline = Instant::now() + CREATION;
        while !self.complete(protocol, wanted) {
            match tokio::time::timeout_at(deadline, session.accept()).await {
                Ok(Some(incoming)) => self.take(incoming, protocol, wanted),
                Ok(None) => return Err(Failure("the client has gone".to_owned())),
                Err(_) => {
                    return Err(Failure(format!("the client did not open all streams within {}s", CREATION.as_secs())));
                }
            }
        }
        Ok(())
    }

    fn complete(&self, protocol: Protocol, wanted: Wanted) -> bool {
        let Wanted { stdin, stdout, stderr, tty } = wanted;
        self.error.is_some()
            && self.stdin.is_some() == stdin
            && self.stdout.is_some() == stdout
            && self.stderr.is_some() == stderr
            && self.resize.is_some() == (tty && protocol.has_resize())
    }

    /// Accepts the stream if it was requested and is the first of its kind. Otherwise dropping it refuses it.
    fn take(&mut self, incoming: Incoming, protocol: Protocol, wanted: Wanted) {
        let (halves, wanted) = match incoming.headers().get("streamtype") {
            Some("error") => (&mut self.error, true),
            Some("stdin") => (&mut self.stdin, wanted.stdin),
            Some("stdout") => (&mut self.stdout, wanted.stdout),
            Some("stderr") => (&mut self.stderr, wanted.stderr),
            Some("resize") => (&mut self.resize, wanted.tty && protocol.has_resize()),
            kind => {
                tracing::debug!(kind, "a streaming client opened a stream of an unknown kind");
                return;
            }
        };
        if wanted && halves.is_none() {
            *halves = incoming.accept();
        }
    }

    /// Runs the session, and passes terminal sizes on meanwhile.
    async fn run(
        &mut self,
        gone: CancellationToken,
        run: impl FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>>,
    ) -> Result<i32, Failure> {
        let (send_size, resize) = mpsc::channel::<Size>(MOST_SIZES);
        let sizes = self.resize.as_mut().map(|(input, _)| std::mem::replace(input, ended()));
        let streams = Streams {
            // Our half of stdin stays open until the session ends: kubectl takes its end for the end of the command.
            stdin: self.stdin.as_mut().map(|(input, _)| std::mem::replace(input, ended())),
            stdout: self.stdout.take().map(output),
            stderr: self.stderr.take().map(output),
            resize,
            gone,
        };
        let session = run(streams);
        let Some(sizes) = sizes else {
            drop(send_size);
            return session.await;
        };
        let sizes = std::pin::pin!(resize::pump(sizes, send_size));
        match future::select(session, sizes).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), session)) => session.await,
        }
    }

    /// Sends the result and closes the remaining streams. The client looks at the error stream once the others have
    /// ended.
    async fn end(self, protocol: Protocol, outcome: Result<i32, Failure>) {
        drop((self.stdout, self.stderr));
        if let Some((_, error)) = self.error {
            error.send_last(status(protocol, outcome)).await;
        }
        drop((self.stdin, self.resize));
    }
}

/// Drops the client's half of an output stream: whatever the client sends there is not read.
fn output((_, sink): Halves) -> Box<dyn Sink> {
    Box::new(sink)
}

/// Returns an input at its end.
fn ended() -> Input {
    mpsc::channel(1).1
}

/// The content of the error stream.
fn status(protocol: Protocol, outcome: Result<i32, Failure>) -> Bytes {
    let status = match (outcome, protocol.has_status()) {
        (Ok(code), true) => remote_status::exit_code(code),
        (Err(failure), true) => remote_status::failure(&failure),
        (Ok(0), false) => Vec::new(),
        (Ok(code), false) => remote_status::exit_sentence(code).into_bytes(),
        (Err(failure), false) => remote_status::failure_sentence(&failure).into_bytes(),
    };
    status.into()
}
