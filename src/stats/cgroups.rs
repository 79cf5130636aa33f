//! The cgroups for which stats were requested, and the sampler, which ends when the requests stop.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Layers;
use super::networks::Networks;
use super::rate::Rate;
use crate::cgroup::{Buffer, Details, Group, Hierarchies, Usage};
use crate::joined::run_blocking;
use crate::mutex::{Mutex, MutexGuard};
use crate::netns::Interface;
use crate::tasks::Tasks;

/// From the call that starts the sampler to its first reading: short, so that there is a rate soon.
const FIRST: Duration = Duration::from_secs(1);
/// The time between later readings. kubelet requests stats every 10 s.
const PERIOD: Duration = Duration::from_secs(10);
/// The sampler ends when there was no call for this long.
const IDLE: Duration = Duration::from_secs(60);

/// State that lasts from one call to the next. Clones share it.
#[derive(Clone)]
pub struct Stats {
    inner: Arc<Inner>,
    /// Sizes of layers. ImageFsInfo uses them too.
    pub layers: Layers,
    tasks: Tasks,
}

struct Inner {
    hierarchies: Arc<Hierarchies>,
    networks: Networks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cgroups: HashMap<Key, Arc<Mutex<CachedCgroup>>>,
    /// The time of the last call; `None` while no sampler runs.
    last_request: Option<Instant>,
}

/// Identifies a cgroup by the object that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The cgroup of a container or of a pause container, by id.
    Container(String),
    /// The cgroup of a whole pod, by the sandbox's id.
    Pod(String),
}

struct CachedCgroup {
    group: Option<Group>,
    rate: Rate,
}

/// What a cgroup uses, and its CPU rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub usage: Usage,
    /// Nanoseconds of CPU time per second; `None` until there are two readings.
    pub nano_cores: Option<u64>,
}

impl Stats {
    /// Reads nothing until the first call of [`Stats::requested`].
    #[must_use]
    pub fn new(unified: bool, layers: Layers, tasks: Tasks) -> Self {
        Self::with_hierarchies(Hierarchies::of_host(unified), layers, tasks)
    }

    fn with_hierarchies(hierarchies: Arc<Hierarchies>, layers: Layers, tasks: Tasks) -> Self {
        let inner = Arc::new(Inner { hierarchies, networks: Networks::default(), state: Mutex::default() });
        Self { inner, layers, tasks }
    }

    /// Reports a request for stats. It starts the sampler, which runs until a minute passes without requests.
    pub fn requested(&self) {
        if self.inner.lock().last_request.replace(Instant::now()).is_none() {
            let inner = Arc::clone(&self.inner);
            self.tasks.background(async move { sample(&inner).await });
        }
    }

    /// What a container's cgroup uses. Reads files, so it must not run on a thread that drives async tasks.
    pub fn container(&self, id: &str, cgroups_path: &str, buffer: &mut Buffer) -> Reading {
        let cached = self.inner.cached(Key::Container(id.to_owned()), |all| Some(all.group(cgroups_path)));
        cached.map(|cached| cached.lock().read(buffer)).unwrap_or_default()
    }

    /// What a pod's cgroup, its `cgroup_parent`, uses; `None` when the pod has no cgroup of its own. Reads files.
    pub fn pod(&self, id: &str, cgroup_parent: &str, buffer: &mut Buffer) -> Option<Reading> {
        let cached = self.inner.cached(Key::Pod(id.to_owned()), |all| all.parent(cgroup_parent))?;
        Some(cached.lock().read(buffer))
    }

    /// The interfaces of a sandbox except `lo`. Its network namespace is pinned at `path`, and its pause process runs
    /// in it. Reads files, and keeps the namespace alive: call [`Stats::forget_network`] before the namespace is
    /// removed.
    ///
    /// # Errors
    /// NotFound when the process is not in that namespace.
    pub fn interfaces(&self, id: &str, path: &Path, pause: u32) -> io::Result<Vec<Interface>> {
        self.inner.networks.interfaces(id, path, pause)
    }

    /// Closes the files of a sandbox's network.
    pub fn forget_network(&self, id: &str) {
        self.inner.networks.forget(id);
    }

    /// The values that only metrics need, and the ids of the container's processes. Reads files.
    pub fn details(&self, id: &str, cgroups_path: &str, buffer: &mut Buffer) -> (Details, Vec<u32>) {
        let cached = self.inner.cached(Key::Container(id.to_owned()), |all| Some(all.group(cgroups_path)));
        let Some(cached) = cached else { return (Details::default(), Vec::new()) };
        let mut cached = cached.lock();
        let Some(group) = &mut cached.group else { return (Details::default(), Vec::new()) };
        (group.details(buffer), group.processes())
    }

    /// Adds the rate to a usage that does not come from a cgroup of this host.
    #[must_use]
    pub fn with_rate(&self, key: Key, usage: Usage) -> Reading {
        let mut state = self.inner.lock();
        let cached = state.cgroups.entry(key).or_insert_with(|| Arc::new(Mutex::new(CachedCgroup::without_group())));
        let mut cached = cached.lock();
        let nano_cores = usage.cpu.as_ref().and_then(|cpu| cached.rate.observe(usage.at, cpu.nanoseconds));
        Reading { usage, nano_cores }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn cached(
        &self,
        key: Key,
        make: impl FnOnce(&Arc<Hierarchies>) -> Option<Group>,
    ) -> Option<Arc<Mutex<CachedCgroup>>> {
        let mut state = self.lock();
        if let Some(cached) = state.cgroups.get(&key) {
            return Some(Arc::clone(cached));
        }
        let cached =
            Arc::new(Mutex::new(CachedCgroup { group: Some(make(&self.hierarchies)?), rate: Rate::default() }));
        state.cgroups.insert(key, Arc::clone(&cached));
        Some(cached)
    }

    /// Whether there was a call within [`IDLE`]. If not, drops all state, open descriptors included; the next call
    /// starts anew.
    fn is_requested(&self) -> bool {
        let mut state = self.lock();
        let is_requested = state.last_request.is_some_and(|last| last.elapsed() < IDLE);
        if !is_requested {
            *state = State::default();
            self.networks.clear();
        }
        is_requested
    }

    /// Takes a reading of every known cgroup, and forgets those that no longer exist.
    fn read_all(&self) {
        self.networks.forget_dead();
        let all: Vec<_> = self.lock().cgroups.iter().map(|(key, cached)| (key.clone(), Arc::clone(cached))).collect();
        let mut buffer = Buffer::default();
        let gone = all.iter().filter(|(_, cached)| !cached.lock().sample(&mut buffer));
        let gone: Vec<&Key> = gone.map(|(key, _)| key).collect();
        let mut state = self.lock();
        for key in gone {
            state.cgroups.remove(key);
        }
    }
}

impl CachedCgroup {
    fn without_group() -> Self {
        Self { group: None, rate: Rate::default() }
    }

    fn read(&mut self, buffer: &mut Buffer) -> Reading {
        let Some(group) = &mut self.group else { return Reading::default() };
        let usage = group.usage(buffer);
        let nano_cores = usage.cpu.as_ref().and_then(|cpu| self.rate.observe(usage.at, cpu.nanoseconds));
        Reading { usage, nano_cores }
    }

    /// Returns whether the cgroup still exists.
    fn sample(&mut self, buffer: &mut Buffer) -> bool {
        match &mut self.group {
            Some(group) => match group.cpu_nanoseconds(buffer) {
                Some((at, used)) => {
                    let _ = self.rate.observe(at, used);
                    true
                }
                None => false,
            },
            // The cgroup is not on this host. The calls of `Stats::with_rate` bring its readings.
            None => self.rate.last_at().is_some_and(|at| {
                let age = jiff::Timestamp::now().as_nanosecond() - i128::from(at);
                age < i128::try_from(IDLE.as_nanos()).unwrap_or(i128::MAX)
            }),
        }
    }
}

async fn sample(inner: &Arc<Inner>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        if !inner.is_requested() {
            return;
        }
        pause = PERIOD;
        let reader = Arc::clone(inner);
        // The kernel sums up a cgroup's counters when they are read. For many cgroups this takes milliseconds.
        run_blocking(move || reader.read_all()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::containerd::Containerd;

    fn stats(root: &Path) -> Stats {
        let containerd = Containerd::new(Path::new("/nobody/listens"), "test").unwrap();
        let layers = Layers::new(containerd, Tasks::default());
        Stats::with_hierarchies(Hierarchies::at(root, true, 100), layers, Tasks::default())
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("pods/c");
        std::fs::create_dir_all(&cgroup).unwrap();
        std::fs::write(cgroup.join("cpu.stat"), "usage_usec 1000000\n").unwrap();
        std::fs::write(cgroup.join("pids.current"), "3\n").unwrap();
        root
    }

    /// Advances the paused clock, and lets the sampler run.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
        // The sampler reads files on another thread, and the paused clock does not wait for that thread.
        for _ in 0..100 {
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_after_a_minute_without_requests() {
        let root = tree();
        let stats = stats(root.path());
        stats.requested();
        let reading = stats.container("c", "/pods/c", &mut Buffer::default());
        assert_eq!(reading.usage.cpu.unwrap().nanoseconds, 1_000_000_000);
        assert_eq!(stats.inner.hierarchies.open(), 2);
        pass(Duration::from_secs(30)).await;
        assert_eq!(stats.inner.hierarchies.open(), 2);
        stats.requested();
        pass(Duration::from_secs(45)).await;
        assert_eq!(stats.inner.hierarchies.open(), 2);
        pass(Duration::from_secs(40)).await;
        assert_eq!(stats.inner.hierarchies.open(), 0);
        let state = stats.inner.lock();
        assert!(state.last_request.is_none() && state.cgroups.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_request_starts_the_sampler_again() {
        let root = tree();
        let stats = stats(root.path());
        stats.requested();
        pass(IDLE * 3).await;
        assert!(stats.inner.lock().last_request.is_none());
        stats.requested();
        assert!(stats.container("c", "/pods/c", &mut Buffer::default()).usage.cpu.is_some());
        pass(IDLE / 2).await;
        assert_eq!(stats.inner.hierarchies.open(), 2);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_forgotten_by_the_next_reading() {
        let root = tree();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_it = runtime.enter();
        let stats = stats(root.path());
        let _ = stats.container("c", "/pods/c", &mut Buffer::default());
        stats.inner.read_all();
        assert_eq!(stats.inner.lock().cgroups.len(), 1);
        // This stands for a removed cgroup, where reads of the open descriptor fail. A regular file that was only unlinked
        // could still be read.
        stats.inner.lock().cgroups.clear();
        std::fs::remove_dir_all(root.path().join("pods")).unwrap();
        let reading = stats.container("c", "/pods/c", &mut Buffer::default());
        assert_eq!(reading.usage.cpu, None);
        stats.inner.read_all();
        assert!(stats.inner.lock().cgroups.is_empty());
    }

    #[test]
    fn a_pod_whose_parent_is_the_root_has_no_cgroup_of_its_own() {
        let root = tree();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_it = runtime.enter();
        let stats = stats(root.path());
        assert_eq!(stats.pod("p", "", &mut Buffer::default()), None);
        assert_eq!(stats.pod("p", "/pods/c", &mut Buffer::default()).unwrap().usage.tasks, Some(3));
    }
}
