//! SELinux: contexts, the levels that isolate pods from each other, and the labels of files.
//!
//! A pod has one level, such as `s0:c12,c345`. Its processes and its files carry it, and the policy denies access
//! between different categories. The level is chosen when the pod is created and written into its record before
//! anything else is created. It stays reserved as long as the sandbox object exists ([`Reservation`]).

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

/// The extended attribute with a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// Longer than any label: the kernel accepts one page.
const LONGEST: usize = 4096;

/// The label of an open file; `None` if it has none or its file system does not support labels.
///
/// # Errors
/// The error of the system call.
pub fn label_of(file: impl AsFd) -> io::Result<Option<String>> {
    let mut value = vec![0_u8; LONGEST];
    match getxattr(proc_fd_path(file.as_fd()), ATTRIBUTE, value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            // The kernel includes the final zero byte, but also accepts values without it.
            let text = value.strip_suffix(b"\0").unwrap_or(&value);
            Ok(Some(String::from_utf8_lossy(text).into_owned()))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets the label of an open file, unless it has that label already. A file system without labels is no error.
///
/// # Errors
/// The error of the system call.
pub fn set_label(file: impl AsFd, label: &str) -> io::Result<()> {
    let file = file.as_fd();
    if label_of(file)?.as_deref() == Some(label) {
        return Ok(());
    }
    match setxattr(proc_fd_path(file), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sets the label of the file at a path; of a symlink itself, not of its target.
///
/// # Errors
/// The error of the system call.
pub fn label_path(path: &Path, label: &str) -> io::Result<()> {
    set_label(open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?, label)
}

/// The xattr calls do not work on descriptors with O_PATH, which is how devices and symlinks must be opened. The link
/// of such a descriptor in /proc leads to exactly that file and no further.
fn proc_fd_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_symlink_is_labelled_itself_and_its_target_is_not() {
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
