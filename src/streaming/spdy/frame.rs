//! Parses and writes frames of SPDY/3.1, without I/O. Every length that a client gives is checked against a limit
//! before anything is buffered. Data is never buffered: it is passed on as it arrives.

use bytes::{Buf, Bytes, BytesMut};

use super::ProtocolError;
use super::headers::{EmptyBlocks, Headers, Inflater};

/// Maximum length of a control frame after its first eight bytes. The specification requires at least 8 KiB.
pub(super) const LARGEST_CONTROL: usize = 16 * 1024;
/// Length of the start of a control or data frame in bytes.
pub(super) const HEAD: usize = 8;
/// Shorter pieces are copied, so that a few bytes do not keep a whole read buffer in memory.
const WORTH_SHARING: usize = 16 * 1024;

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// Number of a stream: 31 bits, not 0, odd if the client opened the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// Whether the client may open a stream with this number.
    pub(super) fn is_the_clients(self) -> bool {
        self.0 % 2 == 1
    }

    pub(super) fn get(self) -> u32 {
        self.0
    }

    fn read(block: &mut &[u8]) -> Result<Self, ProtocolError> {
        Self::new(number(block)?)
    }

    fn new(number: u32) -> Result<Self, ProtocolError> {
        match number & 0x7fff_ffff {
            0 => Err(ProtocolError::Malformed("stream id")),
            id => Ok(Self(id)),
        }
    }
}

/// Why a stream is reset; the status codes of RST_STREAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Reset {
    /// The stream is not open.
    InvalidStream = 2,
    /// The stream was not accepted, and nothing was done for it.
    Refused = 3,
}

/// Why the session ends; the status codes of GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GoAwayReason {
    /// The session's work is done.
    Done = 0,
    /// The client broke the protocol.
    ProtocolError = 1,
}

/// A frame that a client sent; for data, a piece of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// SYN_STREAM: opens a stream.
    Open { stream: StreamId, headers: Headers, fin: bool, unidirectional: bool },
    /// SYN_REPLY or HEADERS. Their headers are ignored, but their blocks are part of the compressed stream.
    Headers { stream: StreamId, fin: bool },
    /// RST_STREAM.
    Reset { stream: StreamId },
    /// PING, to be sent back if its number is odd.
    Ping(u32),
    /// GOAWAY: the client opens no more streams.
    GoAway,
    /// A piece of a DATA frame; `fin` is set on the last piece of the stream.
    Data { stream: StreamId, piece: Bytes, fin: bool },
    /// SETTINGS or WINDOW_UPDATE, which need no action without flow control.
    Ignored,
}

/// Splits a client's bytes into frames.
#[derive(Debug, Default)]
pub(super) struct Parser {
    current: CurrentFrame,
    inflater: Inflater,
}

/// The frame to which the next byte belongs.
#[derive(Debug, Default)]
enum CurrentFrame {
    /// None: a frame begins.
    #[default]
    None,
    /// A data frame with this many bytes left.
    Data { stream: StreamId, left: usize, fin: bool },
    /// A frame of an unknown type, which is skipped as the specification demands.
    Unknown { left: usize },
}

impl Parser {
    /// Removes the next frame from the input; `None` if more input is needed.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        loop {
            match self.current {
                CurrentFrame::None => {
                    if let Some(frame) = self.begin(input)? {
                        return Ok(Some(frame));
                    }
                    // Either a data or unknown frame has begun, or more input is needed.
                    if matches!(self.current, CurrentFrame::None) {
                        return Ok(None);
                    }
                }
                CurrentFrame::Data { stream, left, fin } => {
                    if input.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let piece = piece(input, left);
                    let left = left - piece.len();
                    self.current =
                        if left == 0 { CurrentFrame::None } else { CurrentFrame::Data { stream, left, fin } };
                    return Ok(Some(Frame::Data { stream, piece, fin: fin && left == 0 }));
                }
                CurrentFrame::Unknown { left } => {
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    if skipped < left {
                        self.current = CurrentFrame::Unknown { left: left - skipped };
                        return Ok(None);
                    }
                    self.current = CurrentFrame::None;
                }
            }
        }
    }

    /// Parses a frame's first eight bytes, and the rest as well if it is a control frame.
    fn begin(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        let Some(&[a, b, c, d, flags, e, f, g]) = input.first_chunk::<HEAD>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([0, e, f, g])).unwrap_or(usize::MAX);
        let version = u16::from_be_bytes([a, b]);
        if version & CONTROL == 0 {
            let stream = StreamId::new(u32::from_be_bytes([a, b, c, d]))?;
            input.advance(HEAD);
            self.current = CurrentFrame::Data { stream, left: length, fin: flags & FIN != 0 };
            return Ok(None);
        }
        if version & !CONTROL != VERSION {
            return Err(ProtocolError::Version(version & !CONTROL));
        }
        let Some(kind) = Kind::of(u16::from_be_bytes([c, d])) else {
            input.advance(HEAD);
            self.current = CurrentFrame::Unknown { left: length };
            return Ok(None);
        };
        if length > LARGEST_CONTROL {
            return Err(ProtocolError::TooLong("control frame"));
        }
        if input.len() < HEAD + length {
            return Ok(None);
        }
        input.advance(HEAD);
        let payload = input.split_to(length);
        self.control(kind, flags, &payload).map(Some)
    }

    fn control(&mut self, kind: Kind, flags: u8, mut payload: &[u8]) -> Result<Frame, ProtocolError> {
        let fin = flags & FIN != 0;
        let payload = &mut payload;
        let frame = match kind {
            Kind::Open => {
                let stream = StreamId::read(payload)?;
                let _associated = number(payload)?;
                let _priority_and_slot = payload.split_off(..2).ok_or(ProtocolError::Malformed("SYN_STREAM"))?;
                let headers = self.inflater.block(std::mem::take(payload))?;
                Frame::Open { stream, headers, fin, unidirectional: flags & UNIDIRECTIONAL != 0 }
            }
            Kind::Reply | Kind::Headers => {
                let stream = StreamId::read(payload)?;
                self.inflater.block(std::mem::take(payload))?;
                Frame::Headers { stream, fin }
            }
            Kind::Reset => {
                let stream = StreamId::read(payload)?;
                let _status = number(payload)?;
                Frame::Reset { stream }
            }
            Kind::Settings => {
                let entries = number(payload)?;
                if u32::try_from(payload.len() / 8) != Ok(entries) || !payload.len().is_multiple_of(8) {
                    return Err(ProtocolError::Malformed("SETTINGS"));
                }
                *payload = &[];
                Frame::Ignored
            }
            Kind::Ping => Frame::Ping(number(payload)?),
            Kind::GoAway => {
                let (_last, _status) = (number(payload)?, number(payload)?);
                Frame::GoAway
            }
            Kind::WindowUpdate => {
                let (_stream, _delta) = (number(payload)?, number(payload)?);
                Frame::Ignored
            }
        };
        if payload.is_empty() { Ok(frame) } else { Err(ProtocolError::Malformed("control frame")) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Open = 1,
    Reply = 2,
    Reset = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    Headers = 8,
    WindowUpdate = 9,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Open,
        Self::Reply,
        Self::Reset,
        Self::Settings,
        Self::Ping,
        Self::GoAway,
        Self::Headers,
        Self::WindowUpdate,
    ];

    fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

fn number(payload: &mut &[u8]) -> Result<u32, ProtocolError> {
    let (number, rest) = payload.split_first_chunk::<4>().ok_or(ProtocolError::Malformed("control frame"))?;
    *payload = rest;
    Ok(u32::from_be_bytes(*number))
}

fn piece(input: &mut BytesMut, longest: usize) -> Bytes {
    let length = longest.min(input.len());
    if length >= WORTH_SHARING {
        return input.split_to(length).freeze();
    }
    let piece = Bytes::copy_from_slice(&input[..length]);
    input.advance(length);
    piece
}

/// Appends a control frame; `payload` has at most [`LARGEST_CONTROL`] bytes.
pub(super) fn control(frames: &mut Vec<u8>, kind: Kind, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    frames.extend((CONTROL | VERSION).to_be_bytes());
    frames.extend((kind as u16).to_be_bytes());
    frames.extend((u32::from(flags) << 24 | length).to_be_bytes());
    frames.extend(payload);
}

/// Appends a SYN_REPLY without headers.
pub(super) fn reply(frames: &mut Vec<u8>, stream: StreamId, blocks: &mut EmptyBlocks) {
    let mut payload = stream.0.to_be_bytes().to_vec();
    blocks.append(&mut payload);
    control(frames, Kind::Reply, 0, &payload);
}

pub(super) fn reset(frames: &mut Vec<u8>, stream: StreamId, reason: Reset) {
    let payload = [stream.0.to_be_bytes(), (reason as u32).to_be_bytes()].concat();
    control(frames, Kind::Reset, 0, &payload);
}

pub(super) fn ping(frames: &mut Vec<u8>, number: u32) {
    control(frames, Kind::Ping, 0, &number.to_be_bytes());
}

/// Appends a GOAWAY; `last` is the newest stream that was accepted, 0 for none.
pub(super) fn go_away(frames: &mut Vec<u8>, last: u32, reason: GoAwayReason) {
    let payload = [last.to_be_bytes(), (reason as u32).to_be_bytes()].concat();
    control(frames, Kind::GoAway, 0, &payload);
}

/// Appends the start of a data frame, whose length must fit in 24 bits.
pub(super) fn data(frames: &mut Vec<u8>, stream: StreamId, length: usize, fin: bool) {
    let length = u32::try_from(length).unwrap_or_default();
    frames.extend(stream.0.to_be_bytes());
    frames.extend((u32::from(fin) << 24 | length).to_be_bytes());
}
