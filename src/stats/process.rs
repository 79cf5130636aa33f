//! Resources that processes hold: descriptors, sockets, limits.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// How many descriptors of a container are checked for sockets. Each check costs a readlink; a proxy may have a hundred
/// thousand descriptors.
const LOOKED_AT: u64 = 10_000;

/// The open files of several processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All open files.
    pub files: u64,
    /// The sockets among them; `None` when there are too many files to check.
    pub sockets: Option<u64>,
}

/// Counts the open files of processes. One that has ended has none.
#[must_use]
pub fn descriptors(pids: &[u32]) -> Descriptors {
    let (mut files, mut sockets) = (0, 0);
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            files += 1;
            if files <= LOOKED_AT && fs::read_link(entry.path()).is_ok_and(|target| is_socket(target.as_os_str())) {
                sockets += 1;
            }
        }
    }
    Descriptors { files, sockets: (files <= LOOKED_AT).then_some(sockets) }
}

fn is_socket(target: &OsStr) -> bool {
    target.as_bytes().starts_with(b"socket:")
}

/// The soft limit of open files; `None` when there is no limit or no such process.
#[must_use]
pub fn open_files_limit(pid: u32) -> Option<u64> {
    open_files(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_more_is_a_descriptor_more() {
        let own = [std::process::id()];
        let hold = |count: usize| -> Vec<_> {
            (0..count).map(|_| std::os::unix::net::UnixDatagram::unbound().unwrap()).collect()
        };
        // Other tests open and close files at the same time.
        let many = hold(200);
        let with = descriptors(&own);
        drop(many);
        let without = descriptors(&own);
        assert!(with.sockets.unwrap() >= 200 && with.files > with.sockets.unwrap());
        assert!(without.sockets.unwrap() < 200, "{without:?}");
        assert_eq!(descriptors(&[u32::MAX]), Descriptors { files: 0, sockets: Some(0) });
    }

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            20000                40000                files     \n";
        assert_eq!(open_files(limits), Some(20_000));
        assert_eq!(open_files("Max open files            unlimited            unlimited            files\n"), None);
    }
}
