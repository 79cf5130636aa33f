//! Traffic counters of a namespace's interfaces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Enough for the header lines, `lo`, `eth0` and a few more interfaces.
const USUAL_SIZE: usize = 2048;
/// Longer than any line: a name and sixteen numbers of up to twenty digits.
const LONGEST_LINE: usize = 512;

/// Counters of one interface since it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name in the namespace.
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

/// The counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    pub dropped: u64,
}

/// An open file with the counters of a namespace's interfaces.
///
/// It is held open, because the kernel looks up and creates a path below `/proc/<pid>/net` anew each time: opening
/// takes ten times as long as reading. The open file keeps the namespace alive, so it must be dropped before the
/// namespace is to go away.
#[derive(Debug)]
pub struct Counters {
    pid: u32,
    /// `net/dev` of the process. It takes one read, whereas netlink needs a socket in the namespace, and so a thread
    /// that enters it.
    file: File,
    namespace: (u64, u64),
}

impl Counters {
    /// Opens the counters of the namespace that is pinned at `path`, through process `pid`, which is in that namespace.
    ///
    /// # Errors
    /// NotFound when the process is not in that namespace, for example because it has exited and its pid was reused.
    pub fn open(path: &Path, pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/net/dev"))?;
        let pinned = rustix::fs::stat(path)?;
        let counters = Self { pid, file, namespace: (pinned.st_dev, pinned.st_ino) };
        // Checked after the open: if the process is in the namespace now, it was when the file was opened.
        if !counters.is_alive() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is not in it")));
        }
        Ok(counters)
    }

    /// The process through which the file was opened.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether that process still exists and is in that namespace.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let namespace = rustix::fs::stat(format!("/proc/{}/ns/net", self.pid));
        namespace.is_ok_and(|of_process| (of_process.st_dev, of_process.st_ino) == self.namespace)
    }

    /// The current counters of all interfaces except `lo`.
    ///
    /// # Errors
    /// The error of pread(2).
    pub fn read(&self) -> io::Result<Vec<Interface>> {
        let mut text = [0; USUAL_SIZE];
        let length = self.file.read_at(&mut text, 0)?;
        // The kernel returns as many whole lines as fit: if another line would have fitted, there is none.
        if length + LONGEST_LINE <= text.len() {
            return Ok(parse(&String::from_utf8_lossy(&text[..length])));
        }
        self.read_long(text[..length].to_vec())
    }

    fn read_long(&self, mut text: Vec<u8>) -> io::Result<Vec<Interface>> {
        let mut more = [0; USUAL_SIZE];
        loop {
            let length = self.file.read_at(&mut more, u64::try_from(text.len()).unwrap_or(u64::MAX))?;
            if length == 0 {
                return Ok(parse(&String::from_utf8_lossy(&text)));
            }
            text.extend_from_slice(&more[..length]);
        }
    }
}

/// Two header lines, then `eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop ...`
/// (net/core/net-procfs.c).
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        // A name may contain colons, as aliases once did; the counters contain none.
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
    fn every_interface_but_lo_is_returned() {
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
    fn the_counters_of_another_namespace_are_never_returned() {
        let own = std::process::id();
        assert!(Counters::open(Path::new("/proc/self/ns/net"), own).is_ok());
        let error = Counters::open(Path::new("/proc/self/ns/mnt"), own).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_text_of_any_length_is_read_whole() {
        let line = |number: usize| format!("eth{number}: {number} 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
        for interfaces in [0, 1, 30, 300] {
            let text: String = (0..interfaces).map(line).collect();
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&path, text).unwrap();
            let counters = Counters { pid: 0, file: File::open(&path).unwrap(), namespace: (0, 0) };
            // Twice, because each read must start at the beginning of the file.
            for _ in 0..2 {
                assert_eq!(counters.read().unwrap().len(), interfaces);
            }
        }
    }
}
