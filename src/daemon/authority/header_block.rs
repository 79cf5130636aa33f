//! The fields of a block of headers (HPACK, RFC 7541, 6), as far as the authority is found among them.

use std::ops::Range;

use super::huffman;

/// `:authority` in the static table. No encoder names it by an entry of the dynamic one: it looks here first.
const AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";
/// `:authority`, Huffman-coded.
const CODED_NAME: [u8; 8] = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// The field `from` with no value, of the static table: one byte that says nothing.
const FROM: u8 = 0x80 | 37;
/// What an authority is overwritten with.
const FILLER: u8 = b'a';

/// Overwrites the authority, as text of the same length in the same number of bytes; false when it has to stay as it is.
pub(super) fn overwrite(block: &mut [u8]) -> bool {
    let mut all = true;
    let mut empty = None;
    let mut at = 0;
    while at < block.len() {
        // What does not end within the block is h2's to refuse.
        let Some(field) = Field::at(block, at) else { return true };
        match field.value {
            Value::Empty => empty = Some(at),
            Value::Text { is_coded, range } => all &= fill(is_coded, &mut block[range]),
            Value::OfAnother => {}
        }
        at = field.end;
    }
    if let Some(at) = empty {
        // h2 takes a request without an authority. A field of the static table may stand anywhere, and those that are no
        // pseudo-fields have to stand behind them.
        block[at..].rotate_left(1);
        block[block.len() - 1] = FROM;
    }
    all
}

fn fill(is_coded: bool, value: &mut [u8]) -> bool {
    if is_coded {
        return huffman::fill(value);
    }
    value.fill(FILLER);
    !value.is_empty()
}

struct Field {
    value: Value,
    end: usize,
}

enum Value {
    /// An authority of the static table, which is empty.
    Empty,
    /// An authority.
    Text { is_coded: bool, range: Range<usize> },
    /// Of another field.
    OfAnother,
}

impl Field {
    fn at(block: &[u8], at: usize) -> Option<Self> {
        let first = *block.get(at)?;
        if first & 0x80 != 0 {
            let (index, end) = integer(block, at, 7)?;
            let value = if index == AUTHORITY { Value::Empty } else { Value::OfAnother };
            return Some(Self { value, end });
        }
        if first & 0xe0 == 0x20 {
            // No field, but the dynamic table's new size.
            let (_, end) = integer(block, at, 5)?;
            return Some(Self { value: Value::OfAnother, end });
        }
        let (index, end) = integer(block, at, if first & 0x40 != 0 { 6 } else { 4 })?;
        let (is_authority, end) = if index == 0 {
            let (is_coded, name) = string(block, end)?;
            (block.get(name.clone())? == if is_coded { &CODED_NAME } else { NAME }, name.end)
        } else {
            (index == AUTHORITY, end)
        };
        let (is_coded, range) = string(block, end)?;
        let end = range.end;
        let value = if is_authority { Value::Text { is_coded, range } } else { Value::OfAnother };
        Some(Self { value, end })
    }
}

/// Whether a string is Huffman-coded, and where its bytes are (5.2).
fn string(block: &[u8], at: usize) -> Option<(bool, Range<usize>)> {
    let is_coded = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    Some((is_coded, start..end))
}

/// An integer in the low bits of a byte and in those behind it, and where it ends (5.1).
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut end = at + 1;
    if value < most {
        return Some((value, end));
    }
    // More than four bytes are no length of ours.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(end)?);
        end += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, end));
        }
    }
    None
}
