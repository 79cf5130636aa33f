//! Exec and attach over channels: 0 is stdin, 1 stdout, 2 stderr, 3 the result, 4 the terminal's sizes.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::Session;
use super::channels::ClientMessage;
use super::connection::{self, Io, Reader};
use super::handshake::CommandProtocol;
use crate::streaming::hangup::Hangup;
use crate::streaming::protocol::Wanted;
use crate::streaming::resize::SizeReader;
use crate::streaming::{Failure, Gone, Size, Streams, remote_status};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CHANNELS: u8 = 5;

/// Maximum number of stdin pieces queued for the command, each at most [`super::cut::LONGEST`] bytes long.
const WAITING: usize = 2;
/// Maximum number of queued terminal sizes.
const SIZES: usize = 8;

/// Carries an exec or attach session from its first message to its result.
pub(in crate::streaming) async fn remote_command<T: Io>(
    io: T,
    protocol: CommandProtocol,
    wanted: Wanted,
    session: Session,
    run: impl FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>> + Send,
) {
    let (writer, mut reader) = connection::channels(io, protocol.codec, CHANNELS, session.context.gone.clone()).await;
    // An empty message tells the client that the session has begun, as in kubelet's server.
    let greeted = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if writer.write(greeted, &[]).await.is_err() {
        return;
    }
    let (stdin, stdin_input) = mpsc::channel(WAITING);
    let (resize, resize_input) = mpsc::channel(SIZES);
    let streams = Streams {
        stdin: wanted.stdin.then_some(stdin_input),
        stdout: wanted.stdout.then(|| writer.channel(STDOUT)),
        stderr: wanted.stderr.then(|| writer.channel(STDERR)),
        resize: resize_input,
        gone: session.context.gone.clone(),
    };
    let inputs = Inputs {
        stdin: wanted.stdin.then_some(stdin),
        resize: wanted.tty.then_some(resize),
        sizes: SizeReader::default(),
    };
    let activity = reader.activity();
    let ended = connection::drive(&session, &activity, run(streams), inputs.fill(&mut reader, &session.hangup)).await;
    let last = if protocol.has_status { Some(status(ended)) } else { sentence(ended).map(String::into_bytes) };
    connection::close_session(&session, &writer, &mut reader, last.map(|last| (ERROR, last))).await;
}

fn status(ended: Result<i32, Failure>) -> Vec<u8> {
    match ended {
        Ok(code) => remote_status::exit_code(code),
        Err(failure) => remote_status::failure(&failure),
    }
}

/// What versions before v4 send as the result: nothing for a success.
fn sentence(ended: Result<i32, Failure>) -> Option<String> {
    match ended {
        Ok(0) => None,
        Ok(code) => Some(remote_status::exit_sentence(code)),
        Err(failure) => Some(remote_status::failure_sentence(&failure)),
    }
}

/// The streams that the client writes to. `None` if the stream is closed or was not requested.
struct Inputs {
    stdin: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<Size>>,
    sizes: SizeReader,
}

impl Inputs {
    /// Passes on what the client sends until the client has gone. Reads no faster than the command does.
    async fn fill<T: Io>(mut self, reader: &mut Reader<T>, hangup: &Hangup) {
        while let Ok(message) = reader.next().await {
            if self.take(message, hangup).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, message: ClientMessage, hangup: &Hangup) -> Result<(), Gone> {
        match message {
            ClientMessage::Data(STDIN, data) if !data.is_empty() => offer(&mut self.stdin, data, hangup).await?,
            ClientMessage::Data(RESIZE, data) => {
                if let Some(size) = self.sizes.push(&data) {
                    offer(&mut self.resize, size, hangup).await?;
                }
            }
            ClientMessage::Close(STDIN) => self.stdin = None,
            ClientMessage::Data(..) | ClientMessage::Close(_) | ClientMessage::Ignored => {}
        }
        Ok(())
    }
}

/// Waits for queue space. A value whose receiver has gone is dropped: a command may close its stdin and go on.
pub(super) async fn offer<V>(to: &mut Option<mpsc::Sender<V>>, value: V, hangup: &Hangup) -> Result<(), Gone> {
    let Some(sender) = to else { return Ok(()) };
    tokio::select! {
        biased;
        sent = sender.send(value) => {
            if sent.is_err() {
                *to = None;
            }
            Ok(())
        }
        () = hangup.closed() => Err(Gone),
    }
}
