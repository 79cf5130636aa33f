//! One connection: reads the client's frames, and offers the streams that the client opens to [`Session::accept`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ProtocolError;
use super::frame::{Frame, GoAwayReason, Parser, Reset, StreamId};
use super::headers::Headers;
use super::output::Output;
use super::sink::{Connection, StreamSink};
use super::table::{Delivery, Table};
use crate::streaming::life::{Activity, SessionContext};
use crate::streaming::{Gone, Input};

/// Maximum size of a read in bytes.
const LARGEST_READ: usize = 64 * 1024;
/// Size of the first read in bytes. An interactive session needs no more.
const SMALLEST_READ: usize = 4 * 1024;
/// Maximum number of streams that wait to be accepted.
const MOST_WAITING: usize = 16;
/// How long a client has to read our last frames and to close the connection. If we closed it first, while data of the
/// client is unread, the kernel would send a RST and discard what is on its way to the client.
const CLOSE_TIME: Duration = Duration::from_secs(5);

pub(super) struct Session {
    connection: Arc<Connection>,
    incoming: mpsc::Receiver<Incoming>,
    newest: Arc<AtomicU32>,
    driver: JoinHandle<()>,
    stop: CancellationToken,
    gone: CancellationToken,
    // Ends the driver if the session is dropped.
    _guard: DropGuard,
}

impl Session {
    /// Starts to read a connection with at most `most` streams at a time. [`Session::gone`] is cancelled when `context`
    /// ends the session and when the client goes.
    pub(super) fn start<T>(io: T, most: usize, context: &SessionContext) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = tokio::io::split(io);
        let (gone, stop) = (context.gone.child_token(), CancellationToken::new());
        let activity = Activity::start();
        let output = Output::new(Box::new(writer), activity.clone());
        let connection = Arc::new(Connection { output, table: Table::new(most, gone.clone()) });
        let (accept, incoming) = mpsc::channel(MOST_WAITING);
        let newest = Arc::new(AtomicU32::new(0));
        let driver = Driver {
            reader,
            parser: Parser::default(),
            connection: Arc::clone(&connection),
            accept,
            newest: Arc::clone(&newest),
            activity,
            last_reset: None,
            going: false,
        };
        let driver = context.tasks.operation(driver.drive(gone.clone(), stop.clone(), context.idle));
        Self { connection, incoming, newest, driver, stop, _guard: gone.clone().drop_guard(), gone }
    }

    /// Cancelled when the client has gone, the session was idle for too long, or `context` has ended it.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Returns the next stream that the client opens; `None` if the client has gone.
    pub(super) async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Stops accepting streams; all further ones are refused.
    pub(super) fn stop_accepting(&mut self) {
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
    }

    /// Sends GOAWAY and closes the connection, after the client has closed it or after a few seconds.
    pub(super) async fn close(mut self) {
        self.stop_accepting();
        let deadline = Instant::now() + CLOSE_TIME;
        self.connection.output.go_away(self.newest.load(Ordering::Relaxed), GoAwayReason::Done);
        let _ = tokio::time::timeout_at(deadline, &mut self.driver).await;
        self.stop.cancel();
        self.gone.cancel();
        if !self.driver.is_finished() {
            let _ = (&mut self.driver).await;
        }
        self.connection.output.close(deadline).await;
    }
}

/// A stream that the client has opened and that has not been accepted yet. Dropping it refuses it.
pub(super) struct Incoming {
    stream: StreamId,
    headers: Headers,
    // `None` once accepted or refused.
    halves: Option<(Input, StreamSink)>,
    connection: Arc<Connection>,
}

impl Incoming {
    pub(super) fn id(&self) -> u32 {
        self.stream.get()
    }

    /// The headers with which the client opened the stream.
    pub(super) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Accepts the stream, and returns the client's half and ours.
    pub(super) fn accept(mut self) -> Option<(Input, StreamSink)> {
        let halves = self.halves.take();
        if halves.is_some() {
            self.connection.output.reply(self.stream);
        }
        halves
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some((_, sink)) = self.halves.take() {
            sink.reset(Reset::Refused);
        }
    }
}

/// Reads the connection.
struct Driver<R> {
    reader: R,
    parser: Parser,
    connection: Arc<Connection>,
    accept: mpsc::Sender<Incoming>,
    newest: Arc<AtomicU32>,
    activity: Activity,
    // The last stream that was reset because of data for it: a flood of data gets one reset.
    last_reset: Option<StreamId>,
    // Set after the client's GOAWAY.
    going: bool,
}

/// Why reading has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Client(#[from] Gone),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl<R: AsyncRead + Unpin> Driver<R> {
    /// Reads until the client goes, breaks the protocol or is idle for too long, or until the session is ended.
    async fn drive(mut self, gone: CancellationToken, stop: CancellationToken, idle: Duration) {
        let (connection, activity) = (Arc::clone(&self.connection), self.activity.clone());
        let ended = tokio::select! {
            ended = self.read() => ended,
            gone = connection.output.flush_always() => gone.into(),
            () = gone.cancelled() => Gone.into(),
            () = stop.cancelled() => Gone.into(),
            () = activity.idle(idle) => Gone.into(),
        };
        gone.cancel();
        connection.table.clear();
        if let Ended::Protocol(error) = ended {
            tracing::debug!(%error, "a streaming client broke SPDY");
            connection.output.go_away(self.newest.load(Ordering::Relaxed), GoAwayReason::ProtocolError);
            let _ = tokio::time::timeout(CLOSE_TIME, connection.output.flush()).await;
        }
    }

    async fn read(&mut self) -> Ended {
        let mut input = BytesMut::new();
        let mut read_size = SMALLEST_READ;
        loop {
            if let Err(ended) = self.frames(&mut input).await {
                return ended;
            }
            input.reserve(read_size);
            let limit = input.len() + read_size;
            match (&mut self.reader).take(read_size as u64).read_buf(&mut input).await {
                Ok(0) | Err(_) => return Gone.into(),
                // A full read indicates a bulk transfer: make fewer and larger reads.
                Ok(_) if input.len() == limit => read_size = (read_size * 2).min(LARGEST_READ),
                Ok(_) => {}
            }
            self.activity.touch();
        }
    }

    async fn frames(&mut self, input: &mut BytesMut) -> Result<(), Ended> {
        while let Some(frame) = self.parser.next(input)? {
            self.frame(frame).await?;
            self.connection.output.wait_for_space().await?;
            if self.going && self.connection.table.is_empty() {
                return Err(Gone.into());
            }
        }
        Ok(())
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Ended> {
        let Connection { output, table } = &*self.connection;
        match frame {
            Frame::Open { stream, headers, fin, unidirectional } => {
                self.opened(stream, headers, fin, unidirectional).await?;
            }
            Frame::Data { stream, piece, fin } => {
                let delivery = table.deliver(stream, piece).await;
                if fin {
                    table.end(stream);
                }
                if delivery == Delivery::NoStream && self.last_reset.replace(stream) != Some(stream) {
                    table.remove(stream);
                    output.reset(stream, Reset::InvalidStream);
                }
            }
            Frame::Headers { stream, fin } => {
                if fin {
                    table.end(stream);
                }
            }
            Frame::Reset { stream } => table.remove(stream),
            // Even numbers would be replies to pings of the server, which sends none.
            Frame::Ping(number) if number % 2 == 1 => output.pong(number),
            Frame::GoAway => self.going = true,
            Frame::Ping(_) | Frame::Ignored => {}
        }
        Ok(())
    }

    async fn opened(
        &mut self,
        stream: StreamId,
        headers: Headers,
        fin: bool,
        unidirectional: bool,
    ) -> Result<(), ProtocolError> {
        let connection = &self.connection;
        if !stream.is_the_clients() || stream.get() <= self.newest.load(Ordering::Relaxed) {
            return Err(ProtocolError::StreamOrder(stream.get()));
        }
        self.newest.store(stream.get(), Ordering::Relaxed);
        let opened = if self.going || unidirectional { None } else { connection.table.open(stream, fin) };
        let Some((input, gone)) = opened else {
            connection.output.reset(stream, Reset::Refused);
            return Ok(());
        };
        let sink = StreamSink::new(Arc::clone(connection), stream, gone);
        let connection = Arc::clone(connection);
        let incoming = Incoming { stream, headers, halves: Some((input, sink)), connection };
        // If streams are no longer accepted, the failed send drops the stream, which refuses it.
        let _ = self.accept.send(incoming).await;
        Ok(())
    }
}
