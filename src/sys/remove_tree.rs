//! Removes a directory with all its content, whatever a tenant has created in it: no recursion over the depth of the
//! tree, two descriptors, no path longer than one name. Deep directories are moved up, so that the tree becomes flat
//! during the removal.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

/// Removes a directory and everything in it. It follows no symlinks and crosses no mount points. An absent directory is
/// no error. After a failure, another call can remove the rest.
///
/// # Errors
/// The error of the system call; `EBUSY` for a mount point in the directory.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match open_directory(CWD, path) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0;
    // Subdirectories are moved up into the root, so it is read again until it is empty.
    while empty(&root, &root, &mut moved)? {}
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the content of `directory`. Subdirectories that are not empty are emptied if `directory` is the root, or
/// else moved into the root. Returns whether there was any content.
fn empty(root: &OwnedFd, directory: &OwnedFd, moved: &mut u64) -> io::Result<bool> {
    let is_root = std::ptr::eq(root, directory);
    let mut found = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        if !is_directory(directory, name, entry.file_type())? {
            gone_is_fine(unlinkat(directory, name, AtFlags::empty()))?;
            continue;
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if is_root => {
                empty(root, &open_directory(directory, name)?, moved)?;
                gone_is_fine(unlinkat(directory, name, AtFlags::REMOVEDIR))?;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => move_up(root, directory, name, moved)?,
            done => gone_is_fine(done)?,
        }
    }
    Ok(found)
}

/// Moves a directory into the root, under a name that is not used there.
fn move_up(root: &OwnedFd, directory: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = CString::new(format!(".removed-{moved}"))?;
        match renameat_with(directory, name, root, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            done => return Ok(gone_is_fine(done)?),
        }
    }
}

fn is_directory(directory: &OwnedFd, name: &CStr, told: FileType) -> io::Result<bool> {
    match told {
        FileType::Unknown => {
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        told => Ok(told == FileType::Directory),
    }
}

fn open_directory(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

fn gone_is_fine(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates nested directories without a path that is longer than one name.
    fn deep(root: &Path, name: &str, depth: usize) {
        let mut at = open_directory(CWD, root).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = open_directory(&at, name).unwrap();
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
        }
    }

    /// On a small stack, like that of the threads that may block.
    fn removed_on_a_small_stack(path: &Path) {
        let path = path.to_owned();
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        thread.spawn(move || remove_tree(&path)).unwrap().join().unwrap().unwrap();
    }

    #[test]
    fn a_tree_of_any_depth_goes() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        std::fs::create_dir_all(tree.join("wide")).unwrap();
        for number in 0..500 {
            std::fs::create_dir_all(tree.join(format!("wide/{number}/a/b"))).unwrap();
            std::fs::write(tree.join(format!("wide/{number}/a/file")), "").unwrap();
        }
        // The tenant already uses the names that directories are moved to.
        std::fs::create_dir_all(tree.join(".removed-1/x/y")).unwrap();
        std::fs::write(tree.join(".removed-2"), "").unwrap();
        deep(&tree, "d", 20_000);
        removed_on_a_small_stack(&tree);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn what_is_no_directory_is_an_error_and_what_is_not_there_is_removed() {
        let root = tempfile::tempdir().unwrap();
        remove_tree(&root.path().join("nothing")).unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(remove_tree(&file).is_err());
        std::os::unix::fs::symlink("/etc", root.path().join("link")).unwrap();
        assert!(remove_tree(&root.path().join("link")).is_err());
        assert!(Path::new("/etc/passwd").exists());
    }
}
