//! HPACK's Huffman code (RFC 7541, appendix B), as far as is needed to replace a string by one of the same length.

/// Code lengths in bits, and the number of symbols with a code of that length. The code is canonical: the codes of one
/// length are consecutive, and the first code of a length follows the last one of the length before.
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    // Without the end-of-string symbol, which never occurs in a string.
    (30, 3),
];
/// The code lengths and codes of `a` and `~`, which are both allowed in an authority.
const SHORT: (usize, u32) = (5, 0x3);
const LONG: (usize, u32) = (13, 0x1ffd);

/// Replaces a coded string by one of `~` and `a` with the same number of characters, in as many bytes. Returns false
/// when that is impossible.
///
/// The last byte may have up to 7 bits of padding, so eight code lengths fit into the same bytes. `~` has 8 bits more
/// than `a`, so some number of `~` always yields one of the eight. A string with more than 13 bits per character on
/// average is no text.
pub(super) fn fill(coded: &mut [u8]) -> bool {
    let Some(characters) = length(coded).filter(|length| *length > 0) else { return false };
    let bits = coded.len() * 8;
    let Some(long) = bits.checked_sub(characters * SHORT.0).map(|rest| rest / (LONG.0 - SHORT.0)) else { return false };
    if long > characters {
        return false;
    }
    // Padding consists of ones.
    coded.fill(0xff);
    let mut at = 0;
    for number in 0..characters {
        let (length, code) = if number < long { LONG } else { SHORT };
        for bit in (0..length).rev() {
            if code >> bit & 1 == 0 {
                coded[at / 8] &= !(0x80 >> (at % 8));
            }
            at += 1;
        }
    }
    true
}

/// The number of characters of a coded string; `None` when the bytes are no valid string.
fn length(coded: &[u8]) -> Option<usize> {
    let bits = coded.len() * 8;
    let mut at = 0;
    let mut characters = 0;
    loop {
        match symbol(coded, at) {
            Some(length) => at += length,
            None if is_padding(coded, at, bits) => return Some(characters),
            None => return None,
        }
        characters += 1;
    }
}

/// The number of bits of the character that starts at a bit.
fn symbol(coded: &[u8], at: usize) -> Option<usize> {
    let (mut code, mut read) = (0_u32, 0);
    let mut first = 0_u32;
    for (length, symbols) in CODES {
        while read < length {
            let bit = at + read as usize;
            code = code << 1 | u32::from(coded.get(bit / 8)? >> (7 - bit % 8) & 1);
            first <<= 1;
            read += 1;
        }
        if code - first < symbols {
            return Some(length as usize);
        }
        first += symbols;
    }
    None
}

fn is_padding(coded: &[u8], at: usize, bits: usize) -> bool {
    bits - at < 8 && (at..bits).all(|bit| coded[bit / 8] >> (7 - bit % 8) & 1 == 1)
}
