//! Creates user namespaces in a child process, because a process with threads cannot leave its own (unshare(2)).
#![allow(unsafe_code, reason = "fork, and the raw system calls that may follow it, have no safe wrapper")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Ids from 0 on in a user namespace, mapped to ids on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The host's id of the namespace's id 0.
    pub host: u32,
    /// How many ids are mapped.
    pub length: u32,
}

/// New namespaces. They exist as long as these files are open or mounted.
#[derive(Debug)]
pub struct Namespaces {
    pub user: File,
    /// A network namespace that the user namespace owns.
    pub network: Option<File>,
}

/// Creates a user namespace with these ids and, if `network` is set, a network namespace that it owns. Blocks for a few
/// milliseconds.
///
/// The kernel charges what the namespace's processes use (inotify watches, namespaces, pending signals) to the user who
/// created the namespace. That must not be root, whose limits apply to the node's own daemons, so it is the host's user
/// id of the namespace's root.
///
/// # Errors
/// The error of the system call.
pub fn create(uids: Range, gids: Range, network: bool) -> io::Result<Namespaces> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let child = Child::fork(theirs.as_raw_fd(), uids.host, network)?;
    drop(theirs);
    // The child has left our user namespace, so its maps can be written. They are written here because this process has
    // the privileges over the ids.
    answer(&mut ours)?;
    for (file, range) in [("uid_map", uids), ("gid_map", gids)] {
        std::fs::write(child.path(file), format!("0 {} {}\n", range.host, range.length))?;
    }
    // Only after the maps are written, so that the kernel's files of the network namespace belong to its root and not
    // to the overflow user.
    ours.write_all(&[0])?;
    answer(&mut ours)?;
    let open = |name: &str| File::open(child.path(&format!("ns/{name}")));
    Ok(Namespaces { user: open("user")?, network: network.then(|| open("net")).transpose()? })
}

/// Reads the child's result of its last step: the kernel's error number, or 0 for success.
fn answer(from: &mut UnixStream) -> io::Result<()> {
    let mut errno = [0; 4];
    from.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The helper process. It ends when this is dropped. If this process is killed, it ends too, because its socket is
/// closed.
struct Child(Pid);

impl Child {
    fn fork(socket: RawFd, owner: u32, network: bool) -> io::Result<Self> {
        // Our signal handlers must not run in the child: they write to descriptors that it shares with us.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child is a copy of a process with threads, whose locks may be held forever. It only runs
        // `child_main`, which makes system calls and nothing else: no allocation, no lock, no destructor, no return.
        let child = match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => child_main(socket, owner, network),
            pid => Ok(Self(Pid::from_raw(pid))),
        };
        before.thread_set_mask()?;
        child
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Only this code waits for the child, so the pid cannot have been reused.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// The main loop of the child: reports the result of a step, then waits for the command to run the next one.
fn child_main(socket: RawFd, owner: u32, network: bool) -> ! {
    let socket_number = socket.unsigned_abs();
    // Our sockets, FIFOs and locks would stay open for their peers as long as they are open in the child.
    let closed = close_range(3, socket_number - 1).and_then(|()| close_range(socket_number + 1, u32::MAX));
    let mut step = closed.and_then(|()| become_user(owner)).and_then(|()| unshare(libc::CLONE_NEWUSER));
    loop {
        let errno = step.err().unwrap_or(0).to_ne_bytes();
        let mut go = 0_u8;
        // SAFETY: both buffers live until the calls return, and have the lengths that are passed.
        let exchanged = unsafe {
            libc::write(socket, errno.as_ptr().cast(), errno.len()) == 4
                && libc::read(socket, (&raw mut go).cast(), 1) == 1
        };
        if !exchanged {
            // SAFETY: ends the process without running any of its exit handlers.
            unsafe { libc::_exit(0) }
        }
        step = if network { unshare(libc::CLONE_NEWNET) } else { Ok(()) };
    }
}

/// The error number of a failed system call.
type Step = Result<(), i32>;

fn close_range(first: u32, last: u32) -> Step {
    if first > last {
        return Ok(());
    }
    // SAFETY: no code that runs after this uses a descriptor in the range.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

fn unshare(flags: libc::c_int) -> Step {
    // SAFETY: takes a number and only changes this process.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) })
}

/// The header of capget(2) and capset(2), in their third version.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Sets the effective user id but keeps the capabilities: a distribution may forbid creating user namespaces without
/// them.
///
/// Uses raw system calls: the C library's functions would make all threads do the same, and the child does not have
/// those threads.
fn become_user(owner: u32) -> Step {
    const VERSION_3: u32 = 0x2008_0522;
    const SAME: libc::c_long = -1;
    let mut header = CapabilityHeader { version: VERSION_3, pid: 0 };
    // Effective, permitted, inheritable; twice, for the upper 32 bits.
    let mut sets = [0_u32; 6];
    // SAFETY: the header and the sets have the layout and size of version 3, and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    // SAFETY: takes numbers and only changes this process.
    check(unsafe { libc::syscall(libc::SYS_setresuid, SAME, libc::c_long::from(owner), SAME) })?;
    // SAFETY: as with capget. The real user id stays root, so the permitted set is unchanged.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })
}

fn check(returned: libc::c_long) -> Step {
    if returned == -1 {
        // SAFETY: this is the address of this thread's errno, which always exists.
        return Err(unsafe { *libc::__errno_location() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// The output of a command that runs in the user namespace.
    fn within(namespace: &File, command: &str) -> String {
        let user = format!("--user=/proc/self/fd/{}", namespace.as_raw_fd());
        // nsenter opens the path through its own descriptors, so the descriptor must survive the exec.
        rustix::io::fcntl_setfd(namespace, rustix::io::FdFlags::empty()).unwrap();
        let done = std::process::Command::new("nsenter").args([&user, "sh", "-c", command]).output().unwrap();
        rustix::io::fcntl_setfd(namespace, rustix::io::FdFlags::CLOEXEC).unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    #[test]
    #[ignore = "needs root"]
    fn a_namespace_has_the_maps_and_outlives_its_helper() {
        let made =
            create(Range { host: 70_000, length: 65_536 }, Range { host: 90_000, length: 65_536 }, false).unwrap();
        assert!(made.network.is_none());
        let maps = within(&made.user, "cat /proc/self/uid_map /proc/self/gid_map; id -u");
        let fields: Vec<&str> = maps.split_whitespace().collect();
        assert_eq!(fields, ["0", "70000", "65536", "0", "90000", "65536", "0"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn the_user_namespace_owns_the_network_namespace_and_belongs_to_its_root() {
        let made = create(Range { host: 70_000, length: 10 }, Range { host: 70_000, length: 10 }, true).unwrap();
        let network = made.network.unwrap();
        let inode = |file: &File| file.metadata().unwrap().ino();
        assert_ne!(inode(&network), std::fs::metadata("/proc/self/ns/net").unwrap().ino());
        assert_eq!(inode(&owner_of(&network)), inode(&made.user));
        let mut owner = 0_u32;
        // SAFETY: NS_GET_OWNER_UID (ioctl_ns(2)) writes one uid_t.
        assert_eq!(unsafe { libc::ioctl(made.user.as_raw_fd(), 0xb704, &raw mut owner) }, 0);
        assert_eq!(owner, 70_000);
    }

    fn owner_of(network: &File) -> File {
        // SAFETY: NS_GET_USERNS (ioctl_ns(2)) takes no argument and returns a new descriptor.
        let fd = unsafe { libc::ioctl(network.as_raw_fd(), 0xb701) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new and has no other owner.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
    }

    #[test]
    #[ignore = "needs root"]
    fn the_kernels_refusal_is_returned_and_no_helper_stays() {
        let refused = create(Range { host: u32::MAX - 1, length: 10 }, Range { host: 0, length: 1 }, false);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        // This owner is not a valid user id.
        let refused = create(Range { host: u32::MAX, length: 1 }, Range { host: 0, length: 1 }, false);
        assert!(refused.is_err());
    }
}
