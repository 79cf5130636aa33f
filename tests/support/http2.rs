//! Hand-written HTTP/2, for requests that no Rust client sends.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::PATIENCE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a message.
    Answered,
    /// With RST_STREAM and this code.
    Reset(u32),
}

/// A connection, and the number of calls made on it.
pub struct Connection {
    stream: UnixStream,
    calls: u8,
}

impl Connection {
    pub async fn open(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { stream, calls: 0 }
    }

    /// Calls a method with an empty message. `authority` is a field encoded in HPACK.
    pub async fn call(&mut self, path: &str, authority: &[u8]) -> Ended {
        let id = 2 * self.calls + 1;
        self.calls += 1;
        // POST and http from the static table, and literals that are not added to the dynamic table.
        let mut block = vec![0x83, 0x86];
        block.extend(literal(0x04, None, path));
        block.extend(authority);
        block.extend(literal(0x0, Some("content-type"), "application/grpc"));
        block.extend(literal(0x0, Some("te"), "trailers"));
        let mut sent = frame(HEADERS, END_HEADERS, id, &block);
        sent.extend(frame(DATA, END_STREAM, id, &[0; 5]));
        self.stream.write_all(&sent).await.unwrap();
        tokio::time::timeout(PATIENCE, self.end_of(id)).await.expect("the call ends")
    }

    async fn end_of(&mut self, wanted: u8) -> Ended {
        let mut has_message = false;
        loop {
            let mut header = [0; 9];
            self.stream.read_exact(&mut header).await.expect("the connection is open");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            let (kind, flags, id) = (header[3], header[4], header[8]);
            match kind {
                RST_STREAM if id == wanted => {
                    return Ended::Reset(u32::from_be_bytes(payload.try_into().unwrap()));
                }
                DATA if id == wanted => has_message = true,
                HEADERS if id == wanted && flags & END_STREAM != 0 => {
                    assert!(has_message, "the call failed");
                    return Ended::Answered;
                }
                _ => {}
            }
        }
    }
}

/// A literal field: the first byte has the index of its name, or says that the name follows.
pub fn literal(first: u8, name: Option<&str>, value: &str) -> Vec<u8> {
    let mut field = vec![first];
    for text in name.into_iter().chain([value]) {
        assert!(text.len() < 127);
        field.push(u8::try_from(text.len()).unwrap());
        field.extend(text.as_bytes());
    }
    field
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}
