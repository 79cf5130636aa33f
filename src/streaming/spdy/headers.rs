//! Header blocks: pairs of names and values in a zlib stream, one for each direction, that lasts as long as the
//! connection.
//!
//! Our blocks are empty; a SYN_REPLY of moby/spdystream has no headers either. So no compressor is needed, which would
//! take 270 KiB for each connection: an empty block is written as stored deflate blocks, which every inflater reads and
//! which need no state.

use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};

use super::ProtocolError;
use super::dictionary::{DICTIONARY, ID};

/// Maximum size of an inflated block in bytes. Clients send three short pairs.
pub(super) const LARGEST_BLOCK: usize = 16 * 1024;
/// Maximum number of pairs in a block.
pub(super) const MOST_PAIRS: usize = 64;
/// Maximum length of a name in bytes.
pub(super) const LONGEST_NAME: usize = 128;
/// Maximum length of a value in bytes.
pub(super) const LONGEST_VALUE: usize = 4 * 1024;

/// Initial capacity for an inflated block in bytes.
const USUAL_BLOCK: usize = 512;

/// A stream's headers, as the client sent them. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Arc<[(Box<str>, Box<str>)]>);

impl Headers {
    /// Returns a header's value; the first one if there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(known, _)| **known == *name)?;
        values.split('\0').next()
    }
}

/// The client's direction. Every block goes through here in the order of the frames, even if its headers are not
/// needed.
#[derive(Debug, Default)]
pub(super) struct Inflater {
    // Created with the first block, so that a connection without headers costs nothing.
    stream: Option<Decompress>,
}

impl Inflater {
    pub(super) fn block(&mut self, compressed: &[u8]) -> Result<Headers, ProtocolError> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(true));
        let mut block = Vec::with_capacity(USUAL_BLOCK);
        let mut rest = compressed;
        loop {
            let (taken, made) = (stream.total_in(), block.len());
            let status = stream.decompress_vec(rest, &mut block, FlushDecompress::Sync);
            let taken = usize::try_from(stream.total_in() - taken).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    stream.set_dictionary(&DICTIONARY).map_err(|_| ProtocolError::Compression)?;
                }
                // The end of the zlib stream would be the end of all headers; no client sends it.
                Err(_) | Ok(Status::StreamEnd) => return Err(ProtocolError::Compression),
                // The output was not filled, so the inflater holds nothing back.
                Ok(_) if block.len() < block.capacity() => {
                    let stuck = taken == 0 && block.len() == made;
                    match (rest.is_empty(), stuck) {
                        (true, _) => return Ok(block),
                        (false, true) => return Err(ProtocolError::Compression),
                        (false, false) => {}
                    }
                }
                Ok(_) if block.len() >= LARGEST_BLOCK => return Err(ProtocolError::TooLong("header block")),
                Ok(_) => block.reserve_exact(block.len().min(LARGEST_BLOCK + 1 - block.len())),
            }
        }
    }
}

/// Parses an inflated block.
fn parse(mut block: &[u8]) -> Result<Headers, ProtocolError> {
    let pairs = length(&mut block)?;
    if pairs > MOST_PAIRS {
        return Err(ProtocolError::TooLong("list of headers"));
    }
    let mut headers: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let name = text(&mut block, LONGEST_NAME)?;
        let value = text(&mut block, LONGEST_VALUE)?;
        let known = headers.iter().any(|(known, _)| **known == *name);
        if name.is_empty() || known || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ProtocolError::Malformed("header name"));
        }
        headers.push((name.into(), value.into()));
    }
    if !block.is_empty() {
        return Err(ProtocolError::Malformed("header block"));
    }
    Ok(Headers(headers.into()))
}

fn length(block: &mut &[u8]) -> Result<usize, ProtocolError> {
    let (length, rest) = block.split_first_chunk::<4>().ok_or(ProtocolError::Malformed("header block"))?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ProtocolError::TooLong("header"))
}

fn text<'a>(block: &mut &'a [u8], longest: usize) -> Result<&'a str, ProtocolError> {
    let length = length(block)?;
    if length > longest {
        return Err(ProtocolError::TooLong("header"));
    }
    let (text, rest) = block.split_at_checked(length).ok_or(ProtocolError::Malformed("header block"))?;
    *block = rest;
    std::str::from_utf8(text).map_err(|_| ProtocolError::Malformed("header"))
}

/// Our direction: writes the blocks of frames without headers.
#[derive(Debug, Default)]
pub(super) struct EmptyBlocks {
    begun: bool,
}

impl EmptyBlocks {
    /// Appends the next block of the connection.
    pub(super) fn append(&mut self, frame: &mut Vec<u8>) {
        if !self.begun {
            // zlib's header: deflate with a window of 32 KiB, and the id of the dictionary.
            frame.extend([0x78, 0xbb]);
            frame.extend(ID);
            self.begun = true;
        }
        // A stored block that contains the number of pairs, 0; then an empty block, at which inflaters return what they
        // have (Z_SYNC_FLUSH).
        frame.extend([0, 4, 0, !4, !0, 0, 0, 0, 0]);
        frame.extend([0, 0, 0, !0, !0]);
    }
}
