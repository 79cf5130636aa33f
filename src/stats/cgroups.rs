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
        (group.details(buffer), group.processes().unwrap_or_default())
    }

    /// Adds the rate to a usage that does not come from a cgroup of this host.
    #[must_use]
    pub fn with_rate(&self, key: Key, usage: Usage) -> Reading {
        let mut state = self.inner.lock();
        let cached = state.cgroups.entry(key).or_insert_with(|| Arc::new(Mutex::new(CachedCgroup::without_group())));
        let mut cached = lock(cached);
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
        let gone = all.iter().filter(|(_, cached)| !lock(cached).sample(&mut buffer));
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
mod tests;
