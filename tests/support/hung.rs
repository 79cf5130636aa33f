//! A file system that does not respond: FUSE without a server.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted until it is dropped. A process that looks up a name in it waits until then, and gets an error.
pub struct Hung {
    on: PathBuf,
    /// The file from which a server would read requests.
    server: Option<File>,
}

impl Hung {
    /// Mounts it on a directory.
    pub fn mount(on: &Path) -> io::Result<Self> {
        let server = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("hung"), on, Some("fuse"), flags, Some(options.as_str()))?;
        Ok(Self { on: on.to_owned(), server: Some(server) })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // When the file is closed, no server can answer any more, and the kernel ends the waiting calls.
        drop(self.server.take());
        let _ = umount2(&self.on, MntFlags::MNT_DETACH);
    }
}
