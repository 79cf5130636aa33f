//! Open files with the counters of pods' networks, held while there are requests for stats.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::mutex::{Mutex, MutexGuard};
use crate::netns::{Counters, Interface};

/// The key is the sandbox's id. An entry keeps a network namespace alive, so it is removed before the namespace is.
#[derive(Default)]
pub(super) struct Networks {
    kept: Mutex<HashMap<String, Arc<Counters>>>,
}

impl Networks {
    /// The interfaces of a sandbox. Its network namespace is pinned at `path`, and its pause process `pid` runs in it.
    pub(super) fn interfaces(&self, id: &str, path: &Path, pid: u32) -> io::Result<Vec<Interface>> {
        let kept = self.lock().get(id).filter(|counters| counters.pid() == pid).map(Arc::clone);
        let counters = match kept {
            Some(kept) => kept,
            None => {
                let opened = Arc::new(Counters::open(path, pid)?);
                self.lock().insert(id.to_owned(), Arc::clone(&opened));
                opened
            }
        };
        counters.read()
    }

    /// Closes the counters of a sandbox.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Closes the counters whose pause process has ended. This includes counters that a request opened while the
    /// sandbox was being stopped.
    pub(super) fn forget_dead(&self) {
        self.lock().retain(|_, counters| counters.is_alive());
    }

    pub(super) fn clear(&self) {
        *self.lock() = HashMap::new();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Counters>>> {
        self.kept.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn process() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn what_is_kept_goes_with_its_process() {
        let (networks, mut process) = (Networks::default(), process());
        let read = |id: &str, pid: u32| networks.interfaces(id, Path::new("/proc/self/ns/net"), pid);
        read("pod", process.id()).unwrap();
        networks.forget_dead();
        assert!(networks.lock().contains_key("pod"));
        process.kill().unwrap();
        process.wait().unwrap();
        // A read at this moment still succeeds, because the open counters keep the namespace alive.
        read("pod", process.id()).unwrap();
        networks.forget_dead();
        assert!(networks.lock().is_empty());
        assert_eq!(read("pod", process.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_pause_process_is_another_network() {
        let (networks, mut process) = (Networks::default(), process());
        let path = Path::new("/proc/self/ns/net");
        networks.interfaces("pod", path, process.id()).unwrap();
        networks.interfaces("pod", path, std::process::id()).unwrap();
        assert_eq!(networks.lock()["pod"].pid(), std::process::id());
        networks.forget("pod");
        assert!(networks.lock().is_empty());
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
