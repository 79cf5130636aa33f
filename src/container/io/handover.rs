//! What a daemon leaves to the next one for each stream: its position within a line.
//!
//! The line in progress itself is in the log, as a `P` record (ADR 21). This file, next to the FIFO, says that the
//! line continues, and contains the few bytes that could not be put into a record yet.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Lines, RECORD_LIMIT, StreamName};
use crate::sys::{read, write};

/// The file of one stream. It exists only while no daemon reads the stream.
#[derive(Debug)]
pub(super) struct Handover(PathBuf);

impl Handover {
    /// The file for a stream, in a container's directory of FIFOs.
    pub(super) fn of(directory: &Path, stream: StreamName) -> Self {
        Self(directory.join(format!("{}.line", stream.as_str())))
    }

    /// Writes the position. For a stream between two lines nothing is written.
    ///
    /// # Errors
    /// The file system's error. The next daemon then treats the rest of the line as a new line.
    pub(super) fn leave(&self, lines: &Lines) -> io::Result<()> {
        if !lines.in_line() && lines.remainder().is_empty() {
            return Ok(());
        }
        let tag = if lines.in_line() { b'P' } else { b'F' };
        let bytes = [&[tag][..], lines.remainder()].concat();
        // The rename makes the file appear as a whole or not at all, even if the daemon is killed meanwhile.
        let new = self.0.with_extension("new");
        write::replace(&new, 0o600)?.write_all(&bytes)?;
        fs::rename(&new, &self.0)
    }

    /// Continues where the previous daemon stopped, and removes the file, so that a later restart does not read it
    /// again.
    pub(super) fn resume(&self, lines: &mut Lines) {
        match self.take() {
            Ok(bytes) => {
                if let Some((tag, rest)) = bytes.split_first() {
                    lines.resume(*tag == b'P', rest.to_vec());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "the position within a log line cannot be read");
            }
        }
    }

    fn take(&self) -> io::Result<Vec<u8>> {
        // A line in memory is never longer.
        let bytes = read::regular(&self.0, 1 + RECORD_LIMIT as u64);
        // Also remove a file that cannot be read: otherwise every restart would fail to read it again.
        if !matches!(&bytes, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            fs::remove_file(&self.0)?;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(tty: bool) -> Lines {
        Lines::new(StreamName::Stdout, tty)
    }

    #[test]
    fn a_stream_between_lines_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let handover = Handover::of(directory.path(), StreamName::Stdout);
        handover.leave(&lines(false)).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_is_found_once() {
        let directory = tempfile::tempdir().unwrap();
        let handover = Handover::of(directory.path(), StreamName::Stderr);
        for inside in [true, false] {
            let (mut left, mut found, mut again) = (lines(true), lines(true), lines(true));
            left.resume(inside, b"\r".to_vec());
            handover.leave(&left).unwrap();
            handover.resume(&mut found);
            assert_eq!((found.in_line(), found.remainder()), (inside, &b"\r"[..]));
            handover.resume(&mut again);
            assert_eq!((again.in_line(), again.remainder()), (false, &b""[..]));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
