//! The built-in root file system of pause containers: one shared read-only directory whose content is part of this
//! binary, so that it does not depend on a pull, a snapshot or garbage collection.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The program that build.rs compiled from `pause/main.rs`.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
/// Mount points for the OCI runtime. The root is read-only, so they must exist.
const DIRECTORIES: [&str; 5] = ["proc", "sys", "dev", "etc", "tmp"];
/// Files that the OCI runtime mounts on.
const FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// The command of a pause container with this root.
pub const COMMAND: &str = "/pause";

/// Creates the root if it does not exist, and returns its path, `<root>/pause/<hash>`. An existing one is never
/// changed: sandboxes of an older version still run from their own.
///
/// # Errors
/// The file system's error.
pub fn install(root: &Path) -> io::Result<PathBuf> {
    let parent = root.join("pause");
    let target = parent.join(&hash()[..16]);
    if target.is_dir() {
        return Ok(target);
    }
    fs::create_dir_all(&parent)?;
    let draft = parent.join(format!(".draft-{}", std::process::id()));
    let _ = fs::remove_dir_all(&draft);
    write(&draft)?;
    match fs::rename(&draft, &target) {
        // Another Pontoon process was faster; its bytes are the same.
        Err(_) if target.is_dir() => fs::remove_dir_all(&draft).map(|()| target),
        Err(error) => Err(error),
        Ok(()) => Ok(target),
    }
}

fn write(root: &Path) -> io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in FILES {
        fs::write(root.join(file), "")?;
    }
    let program = root.join(COMMAND.trim_start_matches('/'));
    fs::write(&program, PROGRAM)?;
    // A pause process may run as any user (security_context.run_as_user of the sandbox).
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    fs::set_permissions(root, Permissions::from_mode(0o755))
}

fn hash() -> String {
    let mut digest = Sha256::new();
    digest.update(PROGRAM);
    for name in DIRECTORIES.iter().chain(&FILES) {
        digest.update(name);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_made_once_and_is_then_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = install(directory.path()).unwrap();
        fs::write(root.join("mark"), "").unwrap();
        assert_eq!(install(directory.path()).unwrap(), root);
        assert!(root.join("mark").exists());
        assert_eq!(fs::read(root.join("pause")).unwrap(), PROGRAM);
    }
}
