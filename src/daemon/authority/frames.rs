//! HTTP/2's frames as they come in (RFC 9113, 4.1): which bytes are a block of headers.

use std::ops::Range;

use super::header_block;

/// The connection's first bytes, which are no frame (3.4).
const PREFACE: usize = 24;
/// Length, type, flags and stream.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A block of headers that is longer is not waited for: h2 refuses it.
const LONGEST: usize = 64 << 10;

/// Where in its frames a connection is.
pub(super) struct Frames {
    /// Bytes to come that are none of a block of headers.
    other: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { other: PREFACE }
    }
}

/// What was found in bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// How many of them are complete. The rest is the beginning of a block of headers, and comes again with what follows it.
    pub(super) complete: usize,
    /// Whether an authority had to stay as it is.
    pub(super) odd: bool,
}

impl Frames {
    /// Overwrites the authority of each block of headers.
    pub(super) fn look(&mut self, bytes: &mut [u8]) -> Looked {
        let mut looked = Looked { complete: 0, odd: false };
        loop {
            let skipped = self.other.min(bytes.len() - looked.complete);
            self.other -= skipped;
            looked.complete += skipped;
            let rest = &mut bytes[looked.complete..];
            match Beginning::of(rest) {
                Beginning::Unknown => return looked,
                Beginning::Other(length) => self.other = length,
                Beginning::Headers(frames) => {
                    looked.odd |= !overwrite(rest, &frames);
                    looked.complete += frames.last().map_or(0, |last| last.end);
                }
            }
        }
    }
}

/// What bytes begin with.
enum Beginning {
    /// Too little of it is there.
    Unknown,
    /// A number of bytes that are none of a block of headers.
    Other(usize),
    /// All frames of one block of headers.
    Headers(Vec<Frame>),
}

impl Beginning {
    fn of(bytes: &[u8]) -> Self {
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let start = frames.last().map_or(0, |last| last.end);
            let Some(frame) = Frame::at(bytes, start) else { return Self::Unknown };
            let wanted = if frames.is_empty() { HEADERS } else { CONTINUATION };
            if frame.kind != wanted || frame.end > LONGEST {
                return Self::Other(frame.end);
            }
            if frame.end > bytes.len() {
                return Self::Unknown;
            }
            let is_last = frame.flags & END_HEADERS != 0;
            frames.push(frame);
            if is_last {
                return Self::Headers(frames);
            }
        }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame that begins at `start`, if its header is there.
    fn at(bytes: &[u8], start: usize) -> Option<Self> {
        let header = bytes.get(start..start + FRAME_HEADER)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        Some(Self { kind: header[3], flags: header[4], start, end: start + FRAME_HEADER + length })
    }

    /// Where its part of the block of headers is.
    fn fragment(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let mut start = self.start + FRAME_HEADER;
        let mut padding = 0;
        if self.kind == HEADERS && self.flags & PADDED != 0 {
            padding = usize::from(*bytes.get(start)?);
            start += 1;
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            start += 5;
        }
        let end = self.end.checked_sub(padding)?;
        (start <= end).then_some(start..end)
    }
}

/// Overwrites the authority of a block of headers; false when it has to stay as it is.
fn overwrite(bytes: &mut [u8], frames: &[Frame]) -> bool {
    let fragments: Option<Vec<Range<usize>>> = frames.iter().map(|frame| frame.fragment(bytes)).collect();
    match fragments.as_deref() {
        // What is not well-formed is h2's to refuse.
        None => true,
        Some([whole]) => header_block::overwrite(&mut bytes[whole.clone()]),
        Some(fragments) => {
            let mut block: Vec<u8> = fragments.iter().flat_map(|part| &bytes[part.clone()]).copied().collect();
            let done = header_block::overwrite(&mut block);
            let mut rest = block.as_slice();
            for part in fragments {
                let (this, others) = rest.split_at(part.len());
                bytes[part.clone()].copy_from_slice(this);
                rest = others;
            }
            done
        }
    }
}
