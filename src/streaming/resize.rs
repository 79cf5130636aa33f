//! Reads terminal sizes from a resize stream: JSON objects `{"Width":80,"Height":24}`, one after another, split into
//! pieces anywhere.

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Input, Size};

/// A valid object is shorter than 40 bytes.
const LONGEST: usize = 1024;

/// What client-go's encoder writes for a TerminalSize. client-go's decoder ignores the case of the names.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Parses sizes from the pieces of a resize stream.
#[derive(Debug, Default)]
pub struct SizeReader {
    rest: Vec<u8>,
    broken: bool,
}

impl SizeReader {
    /// Returns the newest size that the piece completes. After invalid input it never returns a size again.
    pub fn push(&mut self, piece: &[u8]) -> Option<Size> {
        let mut newest = None;
        // In steps, so that the buffer stays bounded however long the piece is.
        for step in piece.chunks(LONGEST) {
            if self.broken {
                break;
            }
            self.rest.extend_from_slice(step);
            newest = self.take().or(newest);
        }
        newest
    }

    fn take(&mut self) -> Option<Size> {
        let mut newest = None;
        let mut sizes = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Wire>();
        let read = loop {
            let read = sizes.byte_offset();
            match sizes.next() {
                Some(Ok(Wire { width, height })) => newest = Some(Size { width, height }),
                Some(Err(error)) => {
                    self.broken = !error.is_eof();
                    break read;
                }
                None => break sizes.byte_offset(),
            }
        };
        self.rest.drain(..read);
        self.broken |= self.rest.len() > LONGEST;
        if self.broken {
            self.rest = Vec::new();
        }
        newest
    }
}

/// Passes sizes on to `sizes` until the client closes the stream. If the receiver is slow, only the newest size waits
/// for it, so it never keeps the connection from being read.
pub async fn pump(mut input: Input, sizes: mpsc::Sender<Size>) {
    let mut reader = SizeReader::default();
    let mut newest = None;
    loop {
        tokio::select! {
            piece = input.recv() => match piece {
                Some(piece) => newest = reader.push(&piece).or(newest),
                None => break,
            },
            permit = sizes.reserve(), if newest.is_some() => match (permit, newest.take()) {
                (Ok(permit), Some(size)) => permit.send(size),
                _ => newest = None,
            },
        }
    }
    if let Some(size) = newest {
        let _ = sizes.send(size).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let text = br#"{"Width":80,"Height":24}
{"Width":132,"Height":50}"#;
        for at in 0..text.len() {
            let mut reader = SizeReader::default();
            let first = reader.push(&text[..at]);
            let second = reader.push(&text[at..]);
            assert_eq!(second.or(first), Some(Size { width: 132, height: 50 }), "cut at {at}");
        }
    }

    #[test]
    fn nonsense_ends_the_sizes() {
        for nonsense in
            [&b"hello"[..], br#"{"Width":-1,"Height":2}"#, br#"{"Width":1}"#, br#"{"Width":70000,"Height":2}"#]
        {
            let mut reader = SizeReader::default();
            assert_eq!(reader.push(nonsense), None);
            assert_eq!(reader.push(br#"{"Width":80,"Height":24}"#), None);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut reader = SizeReader::default();
        for _ in 0..100 {
            assert_eq!(reader.push(&[b' '; 4096]), None);
            assert_eq!(reader.push(&[b'{'; 1]), None);
            assert!(reader.rest.len() <= LONGEST);
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_size_and_delays_no_sender() {
        let (pieces, input) = mpsc::channel(1);
        let (sizes, mut got) = mpsc::channel(1);
        let feed = async {
            for width in 1..=100 {
                let size = format!(r#"{{"Width":{width},"Height":1}}"#);
                pieces.send(size.into_bytes().into()).await.unwrap();
            }
            drop(pieces);
            let mut last = None;
            while let Some(size) = got.recv().await {
                last = Some(size);
            }
            last
        };
        let ((), last) = tokio::join!(pump(input, sizes), feed);
        assert_eq!(last, Some(Size { width: 100, height: 1 }));
    }
}
