//! SELinux: contexts, the levels that keep pods apart, and the labels of files.
//!
//! A pod has one level, such as `s0:c12,c345`; its processes and its files carry it, and the
//! policy keeps what has other categories away. It is chosen when the pod is made, written into
//! its record before anything else is, and held by whoever has the sandbox object ([`Reservation`]).

mod context;
mod levels;
mod policy;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, XattrFlags, getxattr, open, setxattr};
use rustix::io::Errno;

pub use context::{BadContext, Context, Labels, is_level};
pub use levels::{Exhausted, Levels, MAX_CATEGORIES, Pair, Reservation};
pub use policy::{Contexts, canonical, contexts};

/// Where the kernel keeps a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Longer than any label: the kernel takes one page.
const LONGEST: usize = 4096;

/// The label of an open file; `None` where it has none or its file system knows none.
///
/// # Errors
/// The kernel's.
pub fn label_of(file: impl AsFd) -> io::Result<Option<String>> {
    let mut value = vec![0_u8; LONGEST];
    match getxattr(through(file.as_fd()), ATTRIBUTE, value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            // The kernel counts the final zero byte, and takes values without.
            let text = value.strip_suffix(b"\0").unwrap_or(&value);
            Ok(Some(String::from_utf8_lossy(text).into_owned()))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Labels an open file, unless it has that label already. A file system without labels is no error.
///
/// # Errors
/// The kernel's.
pub fn set_label(file: impl AsFd, label: &str) -> io::Result<()> {
    let file = file.as_fd();
    if label_of(file)?.as_deref() == Some(label) {
        return Ok(());
    }
    match setxattr(through(file), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Labels the file of a path, a symlink itself.
///
/// # Errors
/// The kernel's.
pub fn label_path(path: &Path, label: &str) -> io::Result<()> {
    set_label(open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?, label)
}

/// There are no calls for files that are open with O_PATH, as devices and symlinks have to be; but
/// their links in /proc lead to just them, and no further.
fn through(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_is_labelled_itself_and_its_target_is_not() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        label_path(&link, "system_u:object_r:t:s0:c1,c2").unwrap();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let label = |path: &Path| label_of(open(path, flags, Mode::empty()).unwrap()).unwrap();
        assert_eq!(label(&link).as_deref(), Some("system_u:object_r:t:s0:c1,c2"));
        assert_eq!(label(&target), None);
    }
}
