//! Cuts a client's long messages into shorter ones while they arrive: the WebSocket library delivers only whole
//! messages, and a client may send one of any length. Output passes through unchanged.
//!
//! A message of a channel begins with the byte that names the channel, and so does each part of it. In the base64
//! forms, each part consists of whole groups of four characters.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_util::io::poll_read_buf;

/// Maximum length of a message after cutting, without the channel's byte. A multiple of four.
pub(super) const LONGEST: usize = 32 << 10;
/// Maximum number of bytes in one read.
const READ: usize = 32 << 10;
/// Maximum length of a frame's header.
const LONGEST_HEADER: usize = 14;

/// A connection whose incoming messages are cut.
pub(super) struct MessageSplitter<T> {
    io: T,
    /// Whether messages begin with a channel.
    has_channels: bool,
    /// Bytes that have been read but not parsed.
    unread: BytesMut,
    position: Position,
    /// The message that is arriving; `None` between messages.
    message: Option<Message>,
    /// Bytes that are ready for the library.
    out: BytesMut,
}

/// The position in the stream of frames.
enum Position {
    Header,
    /// In a frame that passes through unchanged, with this many bytes left.
    PassThrough(u64),
    /// In a data frame.
    Payload {
        left: u64,
        mask: [u8; 4],
        is_final: bool,
    },
}

struct Message {
    opcode: OpCode,
    channel: Option<u8>,
    /// Unmasked bytes without the channel that have not been passed on.
    part: BytesMut,
    /// Whether a part of the message has been passed on.
    is_cut: bool,
}

impl<T> MessageSplitter<T> {
    pub(super) fn new(io: T, has_channels: bool) -> Self {
        Self {
            io,
            has_channels,
            unread: BytesMut::new(),
            position: Position::Header,
            message: None,
            out: BytesMut::new(),
        }
    }

    /// Parses what has been read until there are bytes for the library, or more has to be read.
    fn step(&mut self) -> io::Result<()> {
        while self.out.is_empty() && !self.unread.is_empty() {
            match self.position {
                Position::Header => {
                    if !self.header()? {
                        return Ok(());
                    }
                }
                Position::PassThrough(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread.len());
                    self.out = self.unread.split_to(length);
                    self.position = after(left, length, Position::PassThrough);
                }
                Position::Payload { left, mask, is_final } => self.payload(left, mask, is_final),
            }
        }
        Ok(())
    }

    /// Parses the header of a frame. Returns false if the header is not complete.
    fn header(&mut self) -> io::Result<bool> {
        let mut cursor = Cursor::new(&self.unread[..]);
        let header = FrameHeader::parse(&mut cursor).map_err(io::Error::other)?;
        let Some((header, length)) = header else { return Ok(false) };
        // RFC 6455, section 5.2.
        if i64::try_from(length).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame whose length has its highest bit set"));
        }
        let size = usize::try_from(cursor.position()).unwrap_or(LONGEST_HEADER);
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = header;
        let (OpCode::Data(data), false, Some(mask)) = (opcode, rsv1 || rsv2 || rsv3, mask) else {
            // A control frame such as a ping, or an invalid frame, for which the library returns the error.
            self.out = self.unread.split_to(size);
            self.position = after(length, 0, Position::PassThrough);
            return Ok(true);
        };
        self.unread.advance(size);
        match (data, &self.message) {
            (Data::Continue, Some(_)) => {}
            (Data::Text | Data::Binary, None) => self.message = Some(Message::new(opcode)),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of another message")),
        }
        self.position = Position::Payload { left: length, mask, is_final };
        if length == 0 {
            self.payload(0, mask, is_final);
        }
        Ok(true)
    }

    fn payload(&mut self, left: u64, mut mask: [u8; 4], is_final: bool) {
        let Some(message) = &mut self.message else { return };
        let space = LONGEST - message.part.len() + usize::from(self.has_channels && message.channel.is_none());
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread.len()).min(space);
        let mut bytes = self.unread.split_to(length);
        for (byte, key) in bytes.iter_mut().zip(mask.into_iter().cycle()) {
            *byte ^= key;
        }
        mask.rotate_left(length % 4);
        if self.has_channels && message.channel.is_none() && !bytes.is_empty() {
            message.channel = Some(bytes.get_u8());
        }
        message.part.extend_from_slice(&bytes);
        let left = left - length as u64;
        if left == 0 && is_final {
            message.emit(&mut self.out);
            self.message = None;
        } else if message.part.len() >= LONGEST {
            message.emit(&mut self.out);
        }
        self.position = if left == 0 { Position::Header } else { Position::Payload { left, mask, is_final } };
    }
}

fn after(left: u64, done: usize, more: impl FnOnce(u64) -> Position) -> Position {
    match left - done as u64 {
        0 => Position::Header,
        left => more(left),
    }
}

impl Message {
    fn new(opcode: OpCode) -> Self {
        Self { opcode, channel: None, part: BytesMut::new(), is_cut: false }
    }

    /// Passes the collected bytes on as a message of their own. Does nothing if the message ended exactly where it was
    /// cut last.
    fn emit(&mut self, out: &mut BytesMut) {
        if self.is_cut && self.part.is_empty() {
            return;
        }
        let length = usize::from(self.channel.is_some()) + self.part.len();
        // A client's frame must have a mask; a mask of zeros changes nothing.
        let header = FrameHeader { opcode: self.opcode, mask: Some([0; 4]), ..FrameHeader::default() };
        let mut head = Vec::with_capacity(LONGEST_HEADER + 1);
        // Writing to memory cannot fail.
        let _ = header.format(length as u64, &mut head);
        head.extend(self.channel);
        out.reserve(head.len() + self.part.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.part);
        self.part.clear();
        self.is_cut = true;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for MessageSplitter<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.step()?;
            if !this.out.is_empty() {
                let length = this.out.len().min(into.remaining());
                into.put_slice(&this.out.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if ready!(this.fill(context))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> MessageSplitter<T> {
    /// Reads more, and returns the number of bytes.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unread.reserve(READ);
        poll_read_buf(Pin::new(&mut self.io), context, &mut self.unread)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for MessageSplitter<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
