//! A terminal's sizes as clients send them: JSON objects, one after the other, cut anywhere.

use serde::Deserialize;

use super::Size;

/// More than any object has; a longer rest is thrown away.
const LONGEST: usize = 1024;

#[derive(Deserialize)]
struct Spelt {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Reads sizes from pieces of a stream.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// An object that is not whole yet.
    rest: Vec<u8>,
}

impl Sizes {
    /// The sizes that are whole with this piece. What is no size is left out: a terminal of the wrong size is better
    /// than no terminal.
    pub(super) fn read(&mut self, piece: &[u8]) -> Vec<Size> {
        self.rest.extend_from_slice(&piece[..piece.len().min(LONGEST)]);
        let mut objects = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Spelt>();
        let mut sizes = Vec::new();
        let mut read = 0;
        let broken = loop {
            match objects.next() {
                None => break false,
                Some(Ok(Spelt { width, height })) => sizes.push(Size { width, height }),
                Some(Err(error)) => break !error.is_eof(),
            }
            read = objects.byte_offset();
        };
        if broken || self.rest.len() - read > LONGEST {
            self.rest.clear();
        } else {
            self.rest.drain(..read);
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u16, height: u16) -> Size {
        Size { width, height }
    }

    #[test]
    fn objects_may_be_cut_anywhere() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,\"Height\":43}\n";
        assert_eq!(Sizes::default().read(text), [size(80, 24), size(132, 43)]);
        for cut in 0..text.len() {
            let mut sizes = Sizes::default();
            let mut all = sizes.read(&text[..cut]);
            all.extend(sizes.read(&text[cut..]));
            assert_eq!(all, [size(80, 24), size(132, 43)], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_size_is_left_out_and_kept_nowhere() {
        let mut sizes = Sizes::default();
        for wrong in ["{\"Width\":70000,\"Height\":1}", "}", "{\"Width\":-1,\"Height\":1}"] {
            assert_eq!(sizes.read(wrong.as_bytes()), [], "{wrong}");
            assert_eq!(sizes.read(b"{\"Width\":80,\"Height\":24}"), [size(80, 24)], "after {wrong}");
        }
        for _ in 0..100 {
            sizes.read(&[b' '; 4000]);
            sizes.read(b"{\"x\":\"");
            assert!(sizes.rest.len() <= 2 * LONGEST);
        }
    }
}
