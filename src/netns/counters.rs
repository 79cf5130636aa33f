//! What went through a namespace's interfaces.

use std::io;
use std::path::Path;

/// Counters of one interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the namespace.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The interfaces, but for `lo`, of the namespace that is pinned at `path` and that process `pid` is in.
///
/// Read from the process's /proc: one open and one read, where netlink needs a socket of the namespace, and so a thread
/// that enters it. Nothing is kept open: such a file would keep the namespace.
///
/// # Errors
/// NotFound when the process is not in that namespace, as when it is gone and its number is another's.
pub fn interfaces(path: &Path, pid: u32) -> io::Result<Vec<Interface>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    // After the read: a process that is there now was there then.
    let (pinned, of_process) = (rustix::fs::stat(path)?, rustix::fs::stat(format!("/proc/{pid}/ns/net"))?);
    if (pinned.st_dev, pinned.st_ino) != (of_process.st_dev, of_process.st_ino) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is not in it")));
    }
    Ok(parse(&text))
}

/// Two lines of headings, then `eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop ...`
/// (net/core/net-procfs.c).
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        // A name may have colons, as aliases once did; the counters have none.
        let (name, counters) = line.rsplit_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
        let traffic = |at: usize| {
            let [bytes, packets, errors, dropped] = counters.get(at..at + 4)?.try_into().ok()?;
            Some(Traffic { bytes, packets, errors, dropped })
        };
        Some(Interface { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    text.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_but_lo_is_told() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                    \x20   lo: 9 1    0    0    0     0          0         0 9  1    0    0    0     0       0          0\n\
                    \x20 eth0:  978 48    1    2    0     0          0         0  3429   33    3    4    0     0       0          0\n\
                    \x20 a:b: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let all = parse(text);
        let names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "a:b"]);
        assert_eq!(all[0].received, Traffic { bytes: 978, packets: 48, errors: 1, dropped: 2 });
        assert_eq!(all[0].sent, Traffic { bytes: 3429, packets: 33, errors: 3, dropped: 4 });
        assert_eq!(all[1].sent, Traffic { bytes: 9, packets: 10, errors: 11, dropped: 12 });
    }

    #[test]
    fn another_s_namespace_is_not_told_as_this_one_s() {
        let own = std::process::id();
        assert!(interfaces(Path::new("/proc/self/ns/net"), own).is_ok());
        let error = interfaces(Path::new("/proc/self/ns/mnt"), own).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
