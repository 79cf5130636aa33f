//! Reads whole files, safely even if there is something else in their place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Reads a regular file of at most `largest` bytes. A FIFO or device in its place is refused: it is only opened
/// briefly, without waiting for it.
///
/// # Errors
/// The error of the system call; `InvalidInput` for anything but a regular file, `FileTooLarge` for a larger file.
pub fn regular(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    content(only_regular(OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path))?, largest)
}

/// Like [`regular`], for an open file.
///
/// # Errors
/// As [`regular`].
pub fn regular_file(file: File, largest: u64) -> io::Result<Vec<u8>> {
    content(only_regular(Ok(file))?, largest)
}

fn content(file: File, largest: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(largest + 1).read_to_end(&mut content)?;
    if content.len() as u64 > largest {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {largest} bytes")));
    }
    Ok(content)
}

/// Checks what was opened, without waiting for it, at a path where a regular file should be.
///
/// # Errors
/// That of `opened`; `InvalidInput` for anything but a regular file.
pub(super) fn only_regular(opened: io::Result<File>) -> io::Result<File> {
    let regular = match opened {
        Ok(file) if file.metadata()?.is_file() => Some(file),
        Ok(_) => None,
        // A socket, or a FIFO that is opened for writing and has no reader.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => None,
        Err(error) => return Err(error),
    };
    regular.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// Like [`regular`], as text.
///
/// # Errors
/// `InvalidData` if the content is not UTF-8, else as [`regular`].
pub fn text(path: &Path, largest: u64) -> io::Result<String> {
    let content = regular(path, largest)?;
    String::from_utf8(content).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_that_is_small_enough_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        assert_eq!(text(&path("file"), 4).unwrap(), "text");
        assert_eq!(regular(&path("file"), 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(regular(&path("fifo"), 9).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(regular(Path::new("/dev/zero"), 9).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert_eq!(regular(&path("socket"), 9).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(regular(directory.path(), 9).is_err());
        std::fs::write(path("bytes"), [0xff]).unwrap();
        assert_eq!(text(&path("bytes"), 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
