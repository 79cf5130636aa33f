//! Converts the bytes of a stream to records of the CRI log.
//!
//! A record is `<time> <stdout|stderr> <P|F> <bytes>\n`; kubelet's parser is k8s.io/cri-client/pkg/logs. `P` means
//! that the line continues in the stream's next record. This file does no I/O and needs neither an async runtime nor
//! other parts of this crate: the fuzz target (`fuzz/src/logs.rs`) includes it.

use std::time::{Duration, SystemTime};

/// Maximum bytes of a line in one record, the same as containerd's `max_container_log_line_size`.
pub const RECORD_LIMIT: usize = 16 * 1024;
/// Size of the buffer for reads. An unfinished line of at most [`RECORD_LIMIT`] shares it.
const READ_BUFFER: usize = 64 * 1024;
/// Maximum bytes of one write to the log.
const WRITE_BUFFER: usize = 64 * 1024;
/// Space for everything in a record except its bytes.
const FRAME: usize = 64;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamName {
    /// Standard output, and everything that a terminal shows.
    Stdout,
    Stderr,
}

impl StreamName {
    /// The name in a record and of a FIFO.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The time in a record: RFC 3339 in UTC with nine fractional digits. The date and time of day are formatted once per
/// second.
#[derive(Debug)]
pub struct Stamp {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Stamp {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        let mut stamp = Self { second: None, text: Vec::with_capacity(32) };
        stamp.renew();
        stamp
    }

    /// Sets it to the current time.
    pub fn renew(&mut self) {
        // A clock before 1970 yields 1970: the log line matters more than its time.
        self.set(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    }

    fn set(&mut self, since_epoch: Duration) {
        let second = since_epoch.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            let time = i64::try_from(second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let text = time.unwrap_or_default().to_string();
            self.text.clear();
            self.text.extend_from_slice(text.trim_end_matches('Z').as_bytes());
            self.text.extend_from_slice(b".000000000Z");
        }
        let mut rest = since_epoch.subsec_nanos();
        let end = self.text.len() - 1;
        for digit in self.text[end - 9..end].iter_mut().rev() {
            *digit = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
        }
    }
}

/// Whole records that are written at once.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    in_line: bool,
    line_end: Option<usize>,
}

impl Batch {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Splits the records in two: those that end a line which an earlier batch began, and the rest. The log may be
    /// switched to a new file between the two.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match (self.in_line, self.line_end) {
            (false, _) => self.bytes.split_at(0),
            (true, end) => self.bytes.split_at(end.unwrap_or(self.bytes.len())),
        }
    }

    /// Empties the batch but keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.line_end = None;
    }

    /// Empties the batch and frees its memory.
    pub fn free(&mut self) {
        *self = Self::default();
    }

    fn has_room(&self) -> bool {
        self.bytes.len() + RECORD_LIMIT + FRAME <= WRITE_BUFFER
    }
}

/// The bytes of a stream that are not in a record yet.
#[derive(Debug)]
pub struct Lines {
    stream: StreamName,
    /// A terminal turns each `\n` of the container into `\r\n`; that `\r` is not part of the container's output.
    tty: bool,
    buffer: Vec<u8>,
    /// Index in the buffer of the first byte that is not in a record yet.
    start: usize,
    /// How many bytes after `start` are known to contain no newline.
    scanned: usize,
    /// Whether the last record was a `P`.
    in_line: bool,
}

impl Lines {
    #[must_use]
    pub fn new(stream: StreamName, tty: bool) -> Self {
        Self { stream, tty, buffer: Vec::new(), start: 0, scanned: 0, in_line: false }
    }

    /// Continues where another reader stopped. `in_line` is whether its last record was a `P`; `rest` is what it had
    /// read and put into no record.
    pub fn resume(&mut self, in_line: bool, rest: Vec<u8>) {
        self.buffer = rest;
        self.in_line = in_line;
    }

    /// The bytes that are not in a record yet.
    #[must_use]
    pub fn remainder(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    #[must_use]
    pub fn stream(&self) -> StreamName {
        self.stream
    }

    /// Whether the records so far end within a line.
    #[must_use]
    pub fn in_line(&self) -> bool {
        self.in_line
    }

    /// The buffer, to read into its spare capacity, which is at least 48 KiB if [`Lines::records`] has returned
    /// false.
    pub fn space(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve_exact(READ_BUFFER.saturating_sub(self.buffer.len()));
        &mut self.buffer
    }

    /// Drops all bytes, because there is no log.
    pub fn discard(&mut self) {
        self.buffer.clear();
        self.start = 0;
        self.scanned = 0;
    }

    /// Frees memory that an idle stream does not need.
    pub fn shrink(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.shrink_to_fit();
    }

    /// Moves records into an empty batch until it is full or no whole record is left. True if there may be more.
    pub fn records(&mut self, stamp: &Stamp, batch: &mut Batch) -> bool {
        self.open(batch);
        while batch.has_room() {
            let Some((length, full)) = self.next() else { return false };
            self.push(stamp, batch, length, full);
        }
        true
    }

    /// The stream has ended: the rest, a line without a newline, becomes a `P` record, as with containerd. To be
    /// called when [`Lines::records`] has returned false.
    pub fn finish(&mut self, stamp: &Stamp, batch: &mut Batch) {
        self.push_partial(stamp, batch, self.remainder().len());
    }

    /// Another reader will continue the stream: what is in memory becomes a `P` record, so that it is in the log even
    /// if no other reader comes. To be called when [`Lines::records`] has returned false.
    pub fn hand_over(&mut self, stamp: &Stamp, batch: &mut Batch) {
        // In a `P` record, a `\r` would count as the container's output. Only the next byte shows whether it comes
        // from the terminal.
        let unsure = usize::from(self.tty && self.remainder().ends_with(b"\r"));
        self.push_partial(stamp, batch, self.remainder().len() - unsure);
    }

    fn push_partial(&mut self, stamp: &Stamp, batch: &mut Batch, length: usize) {
        self.open(batch);
        if length > 0 {
            self.push(stamp, batch, length, false);
        }
    }

    fn open(&self, batch: &mut Batch) {
        batch.clear();
        batch.in_line = self.in_line;
        batch.bytes.reserve_exact(WRITE_BUFFER);
    }

    /// The next record: the length of its content in the buffer, and whether a newline follows.
    fn next(&mut self) -> Option<(usize, bool)> {
        let bytes = &self.buffer[self.start..];
        let window = &bytes[..bytes.len().min(RECORD_LIMIT + 1)];
        match window[self.scanned..].iter().position(|&byte| byte == b'\n') {
            Some(found) => Some((self.scanned + found, true)),
            None if bytes.len() > RECORD_LIMIT => Some((RECORD_LIMIT, false)),
            None => {
                self.scanned = bytes.len();
                None
            }
        }
    }

    fn push(&mut self, stamp: &Stamp, batch: &mut Batch, length: usize, full: bool) {
        let mut content = &self.buffer[self.start..self.start + length];
        if full && self.tty {
            content = content.strip_suffix(b"\r").unwrap_or(content);
        }
        let out = &mut batch.bytes;
        out.extend_from_slice(&stamp.text);
        out.push(b' ');
        out.extend_from_slice(self.stream.as_str().as_bytes());
        out.extend_from_slice(if full { b" F " } else { b" P " });
        out.extend_from_slice(content);
        out.push(b'\n');
        if full && batch.line_end.is_none() {
            batch.line_end = Some(batch.bytes.len());
        }
        self.start += length + usize::from(full);
        self.scanned = 0;
        self.in_line = !full;
    }
}

#[cfg(test)]
mod tests;
