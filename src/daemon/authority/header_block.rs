//! Parses the fields of a header block (HPACK, RFC 7541, 6) as far as is needed to find the authority.

use std::ops::Range;

use super::huffman;

/// The index of `:authority` in the static table. No encoder refers to an entry of the dynamic table for this name,
/// because encoders search the static table first.
const AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";
/// `:authority` in HPACK's Huffman code.
const CODED_NAME: [u8; 8] = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// The field `from` without a value, from the static table: a field of one byte that has no effect.
const FROM: u8 = 0x80 | 37;
/// The character that replaces those of an authority.
const FILLER: u8 = b'a';

/// Overwrites the value of `:authority`. The new value has as many characters and takes as many encoded bytes, so that
/// neither the length of the frame nor the size of an entry in the dynamic table changes. A field with the static
/// table's empty authority becomes an empty `from`. Returns false when this is impossible: for an empty literal value,
/// or one that is no text.
pub(super) fn overwrite(block: &mut [u8]) -> bool {
    let mut all = true;
    let mut empty = None;
    let mut at = 0;
    while at < block.len() {
        // A field that does not end within the block is left for h2 to reject.
        let Some(field) = Field::at(block, at) else { return true };
        match field.value {
            Value::Empty => empty = Some(at),
            Value::Text { is_coded, range } => all &= fill(is_coded, &mut block[range]),
            Value::OfAnother => {}
        }
        at = field.end;
    }
    if let Some(at) = empty {
        // h2 accepts a request without an authority, so the field is replaced by `from`. A field of the static table
        // may be at any position, but regular fields must follow the pseudo-header fields: so it moves to the end.
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
    /// The static table's entry for the authority, whose value is empty.
    Empty,
    /// A literal value of the authority.
    Text { is_coded: bool, range: Range<usize> },
    /// The value of another field.
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
            // Not a field, but a size update of the dynamic table.
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

/// Whether a string is Huffman-coded, and the range of its bytes (5.2).
fn string(block: &[u8], at: usize) -> Option<(bool, Range<usize>)> {
    let is_coded = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    Some((is_coded, start..end))
}

/// An integer in the low bits of a byte and in the bytes after it, and the position where it ends (5.1).
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut end = at + 1;
    if value < most {
        return Some((value, end));
    }
    // More than four further bytes cannot be a length in a block of at most 64 KiB.
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
