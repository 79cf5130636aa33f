//! Writes files, safely even if there is something else in their place: never through a symlink, and without waiting
//! for the reader of a FIFO.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::read::only_regular;

/// Creates a new file and replaces anything at the path. Used for temporary files that are then renamed.
///
/// # Errors
/// The error of the system call, also if the path is a directory.
pub fn replace(path: &Path, mode: u32) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Opens a file for writing, and creates it with access for root only if it is missing.
///
/// # Errors
/// The error of the system call; `InvalidInput` for anything but a regular file.
pub fn regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits().cast_signed());
    only_regular(options.open(path))
}

/// Overwrites a file in place.
///
/// # Errors
/// As [`regular`].
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = regular(path)?;
    file.set_len(0)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn t12_nothing_is_written_to_a_fifo_or_symlink_in_a_files_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("precious"), "precious").unwrap();
        for (name, put) in [("fifo", None), ("read fifo", None), ("link", Some(path("precious")))] {
            match put {
                Some(target) => symlink(target, path(name)).unwrap(),
                None => mkfifoat(CWD, path(name), Mode::RUSR | Mode::WUSR).unwrap(),
            }
        }
        let _reader = crate::sys::fifo::open(&path("read fifo"), crate::sys::fifo::End::Read).unwrap();
        for name in ["fifo", "read fifo", "link"] {
            assert!(overwrite(&path(name), b"x").is_err(), "{name}");
            replace(&path(name), 0o600).unwrap().write_all(b"new").unwrap();
            assert_eq!(fs::read(path(name)).unwrap(), b"new", "{name}");
        }
        overwrite(&path("link"), b"ok").unwrap();
        assert_eq!(
            (fs::read(path("link")).unwrap(), fs::read(path("precious")).unwrap()),
            (b"ok".to_vec(), b"precious".to_vec())
        );
        assert!(overwrite(Path::new("/dev/null"), b"x").is_err() && replace(directory.path(), 0o600).is_err());
    }
}
