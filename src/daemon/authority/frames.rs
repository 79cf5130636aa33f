//! Splits a connection into HTTP/2 frames (RFC 9113, 4.1), to find the bytes that are header blocks.

use std::ops::Range;

use super::header_block;

/// The first bytes of a connection, which are not a frame (3.4).
const PREFACE: usize = 24;
/// Length, type, flags and stream.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A longer header block is not buffered, because h2 rejects it.
const LONGEST: usize = 64 << 10;

/// The position of a connection within its frames.
pub(super) struct Frames {
    /// The number of next bytes that do not belong to a header block.
    other: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { other: PREFACE }
    }
}

/// The result of [`Frames::rewrite`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    /// How many of the bytes are complete. The rest is the beginning of a header block, and is passed in again when
    /// more bytes have been read.
    pub(super) complete: usize,
    /// Whether an authority could not be overwritten.
    pub(super) failed: bool,
}

impl Frames {
    /// Overwrites the authority of each header block.
    pub(super) fn rewrite(&mut self, bytes: &mut [u8]) -> Rewritten {
        let mut rewritten = Rewritten { complete: 0, failed: false };
        loop {
            let skipped = self.other.min(bytes.len() - rewritten.complete);
            self.other -= skipped;
            rewritten.complete += skipped;
            let rest = &mut bytes[rewritten.complete..];
            match NextFrames::of(rest) {
                NextFrames::Unknown => return rewritten,
                NextFrames::Other(length) => self.other = length,
                NextFrames::Headers(frames) => {
                    rewritten.failed |= !overwrite(rest, &frames);
                    rewritten.complete += frames.last().map_or(0, |last| last.end);
                }
            }
        }
    }
}

/// What a sequence of bytes begins with.
enum NextFrames {
    /// Too few bytes to decide.
    Unknown,
    /// This many bytes that do not belong to a header block.
    Other(usize),
    /// All frames of one header block.
    Headers(Vec<Frame>),
}

impl NextFrames {
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
    /// The frame at `start`, if its header is complete.
    fn at(bytes: &[u8], start: usize) -> Option<Self> {
        let header = bytes.get(start..start + FRAME_HEADER)?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        Some(Self { kind: header[3], flags: header[4], start, end: start + FRAME_HEADER + length })
    }

    /// The range of its part of the header block.
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

/// Overwrites the authority of a header block. Returns false when it cannot be overwritten.
fn overwrite(bytes: &mut [u8], frames: &[Frame]) -> bool {
    let fragments: Option<Vec<Range<usize>>> = frames.iter().map(|frame| frame.fragment(bytes)).collect();
    match fragments.as_deref() {
        // Malformed frames are left for h2 to reject.
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
