//! A SPDY/3.1 client that behaves like moby/spdystream.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::dictionary::DICTIONARY;

pub const FIN: u8 = 1;
pub const OPEN: u16 = 1;
pub const REPLY: u16 = 2;
pub const RESET: u16 = 3;
pub const SETTINGS: u16 = 4;
pub const PING: u16 = 6;
pub const GO_AWAY: u16 = 7;
pub const HEADERS: u16 = 8;
pub const WINDOW_UPDATE: u16 = 9;

pub fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = [0x8003_u16.to_be_bytes(), kind.to_be_bytes()].concat();
    frame.extend((u32::from(flags) << 24 | length).to_be_bytes());
    frame.extend(payload);
    frame
}

/// A control frame whose payload consists of numbers.
pub fn numbers(kind: u16, numbers: &[u32]) -> Vec<u8> {
    control(kind, 0, &numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>())
}

pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.extend((u32::from(flags) << 24 | u32::try_from(bytes.len()).unwrap()).to_be_bytes());
    frame.extend(bytes);
    frame
}

/// A header block before compression.
pub fn plain(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend(text.as_bytes());
    }
    block
}

/// Compresses the header blocks of one connection in order.
pub struct Encoder(Compress);

impl Encoder {
    pub fn new() -> Self {
        let mut stream = Compress::new(Compression::best(), true);
        stream.set_dictionary(&DICTIONARY).unwrap();
        Self(stream)
    }

    pub fn block(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 256);
        let before = self.0.total_in();
        while self.0.total_in() - before < plain.len() as u64 || block.len() == block.capacity() {
            let rest = &plain[usize::try_from(self.0.total_in() - before).unwrap()..];
            block.reserve(256);
            self.0.compress_vec(rest, &mut block, FlushCompress::Sync).unwrap();
        }
        block
    }

    pub fn open(&mut self, stream: u32, flags: u8, pairs: &[(&str, &str)]) -> Vec<u8> {
        self.open_plain(stream, flags, &plain(pairs))
    }

    pub fn open_plain(&mut self, stream: u32, flags: u8, plain: &[u8]) -> Vec<u8> {
        let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
        payload.extend([0, 0]);
        payload.extend(self.block(plain));
        control(OPEN, flags, &payload)
    }

    pub fn headers(&mut self, kind: u16, stream: u32, flags: u8, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend(self.block(&plain(pairs)));
        control(kind, flags, &payload)
    }
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Reply(u32),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32, u32),
    Data(u32, Vec<u8>, bool),
}

/// A client on a pipe.
pub struct Client {
    pub io: DuplexStream,
    pub encoder: Encoder,
    inflater: Decompress,
    input: BytesMut,
}

impl Client {
    /// Returns the client, and the server's end of the pipe.
    pub fn new(pipe: usize) -> (Self, DuplexStream) {
        let (io, server) = tokio::io::duplex(pipe);
        let client = Self { io, encoder: Encoder::new(), inflater: Decompress::new(true), input: BytesMut::new() };
        (client, server)
    }

    pub async fn send(&mut self, frame: &[u8]) {
        self.io.write_all(frame).await.unwrap();
    }

    pub async fn open(&mut self, stream: u32, pairs: &[(&str, &str)]) {
        let frame = self.encoder.open(stream, 0, pairs);
        self.send(&frame).await;
    }

    /// Opens a stream that the server must accept.
    pub async fn opened(&mut self, stream: u32, pairs: &[(&str, &str)]) {
        self.open(stream, pairs).await;
        assert_eq!(self.next().await, Some(Got::Reply(stream)));
    }

    /// Returns the next frame; `None` if the server has closed the connection.
    pub async fn next(&mut self) -> Option<Got> {
        loop {
            if let Some(got) = self.parse() {
                return Some(got);
            }
            if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                assert!(self.input.is_empty(), "half a frame at the end");
                return None;
            }
        }
    }

    /// Asserts that nothing arrives for a second.
    pub async fn silence(&mut self) {
        let next = tokio::time::timeout(Duration::from_secs(1), self.next()).await;
        assert!(next.is_err(), "got {next:?}");
    }

    /// Returns all frames until the server closes the connection.
    pub async fn rest(&mut self) -> Vec<Got> {
        let mut rest = Vec::new();
        while let Some(got) = self.next().await {
            rest.push(got);
        }
        rest
    }

    fn parse(&mut self) -> Option<Got> {
        let [a, b, c, d, flags, e, f, g] = *self.input.first_chunk::<8>()?;
        let length = u32::from_be_bytes([0, e, f, g]) as usize;
        if self.input.len() < 8 + length {
            return None;
        }
        self.input.advance(8);
        let payload = self.input.split_to(length);
        if a & 0x80 == 0 {
            return Some(Got::Data(u32::from_be_bytes([a, b, c, d]), payload.to_vec(), flags & FIN != 0));
        }
        assert_eq!([a, b], [0x80, 3], "SPDY/3");
        let number = |at: usize| u32::from_be_bytes(*payload[at..].first_chunk::<4>().unwrap());
        let (got, length) = match u16::from_be_bytes([c, d]) {
            REPLY => {
                assert_eq!(self.inflate(&payload[4..]), [0; 4], "no headers");
                (Got::Reply(number(0)), payload.len())
            }
            RESET => (Got::Reset(number(0), number(4)), 8),
            PING => (Got::Ping(number(0)), 4),
            GO_AWAY => (Got::GoAway(number(0), number(4)), 8),
            kind => panic!("a frame of type {kind}"),
        };
        assert_eq!(payload.len(), length);
        Some(got)
    }

    fn inflate(&mut self, block: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(64);
        let before = self.inflater.total_in();
        if let Err(error) = self.inflater.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
            assert!(error.needs_dictionary().is_some(), "{error}");
            self.inflater.set_dictionary(&DICTIONARY).unwrap();
            let rest = &block[usize::try_from(self.inflater.total_in() - before).unwrap()..];
            self.inflater.decompress_vec(rest, &mut plain, FlushDecompress::Sync).unwrap();
        }
        assert_eq!(self.inflater.total_in() - before, block.len() as u64, "all of it is one block");
        plain
    }
}
