//! The CRI log format, as kubelet reads it: `TIME STREAM TAG CONTENT`.

use std::path::Path;

use anyhow::{Context as _, ensure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 with up to nine digits of a second.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line continues in the next entry (tag `P`).
    pub partial: bool,
    /// Without the line's final newline.
    pub content: Vec<u8>,
}

/// Reads all lines. Fails at the first line that is not in the format.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes)
}

/// The same for the content of a file.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Line>> {
    let Some(bytes) = bytes.strip_suffix(b"\n") else {
        ensure!(bytes.is_empty(), "the last line does not end");
        return Ok(Vec::new());
    };
    bytes.split(|byte| *byte == b'\n').map(line).collect()
}

fn line(bytes: &[u8]) -> anyhow::Result<Line> {
    let shown = || format!("not a CRI log line: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
    let mut fields = bytes.splitn(4, |byte| *byte == b' ');
    let mut field = || fields.next().with_context(shown);
    let time = String::from_utf8(field()?.to_vec())?;
    let stream = String::from_utf8(field()?.to_vec())?;
    let tag = field()?;
    let content = field()?.to_vec();
    ensure!(stream == "stdout" || stream == "stderr", shown());
    ensure!(tag == b"P" || tag == b"F", shown());
    time.parse::<jiff::Timestamp>().with_context(shown)?;
    Ok(Line { time, stream, partial: tag == b"P", content })
}

/// The content of both streams in the log's order. Entries of a partial line are joined.
pub fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = Vec::new();
    for line in read(path)? {
        text.extend(line.content);
        if !line.partial {
            text.push(b'\n');
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
