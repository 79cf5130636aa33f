//! A file system that does not answer: FUSE without a server.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted until it is dropped. Whoever looks for a name in it waits until then, and gets an error.
pub struct Hung {
    on: PathBuf,
    /// Where a server would read what is asked.
    server: Option<File>,
}

impl Hung {
    /// On a directory.
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
        // Without anybody who could ever answer, the kernel ends what waits.
        drop(self.server.take());
        let _ = umount2(&self.on, MntFlags::MNT_DETACH);
    }
}
