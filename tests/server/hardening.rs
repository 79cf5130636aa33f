//! Measures that the daemon takes before anything else, to keep other users out.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::until;

/// A user other than root. As root, all files of the process in /proc would belong to root anyway.
const NOBODY: u32 = 65534;

/// Killed at the end of the test, also when the test fails.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that has bound its socket and waits for containerd.
async fn waiting(directory: &Path) -> Daemon {
    chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    // Executed through a descriptor, since the user nobody may have no access to the build directory.
    let program = File::open(env!("CARGO_BIN_EXE_pontoon")).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg("serve").arg("--socket").arg(directory.join("run/pontoon.sock"));
    for name in ["root", "state", "containerd"] {
        command.arg(format!("--{name}")).arg(directory.join(name));
    }
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    until("the socket is there", || directory.join("run/pontoon.sock").exists()).await;
    daemon
}

#[tokio::test]
async fn x3_the_sockets_directory_may_be_passed_and_not_listed() {
    let place = tempfile::tempdir().unwrap();
    let _daemon = waiting(place.path()).await;
    assert_eq!(fs::metadata(place.path().join("run")).unwrap().mode() & 0o7777, 0o711);
}

#[tokio::test]
async fn x11_a_process_of_the_same_user_cannot_inspect_the_daemon() {
    let place = tempfile::tempdir().unwrap();
    let daemon = waiting(place.path()).await;
    let environ = fs::metadata(format!("/proc/{}/environ", daemon.0.id())).unwrap();
    assert_eq!(environ.uid(), 0, "the kernel gives it to the process's user only while that may look into it");
}
