//! Cgroups that were asked for, and the sampler that ends when nobody asks any more.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Layers;
use super::networks::Networks;
use super::rate::Rate;
use crate::cgroup::{Buffer, Details, Group, Hierarchies, Usage};
use crate::netns::Interface;
use crate::tasks::Tasks;

/// The first reading after the one of the call that began it: soon there is a rate to tell.
const FIRST: Duration = Duration::from_secs(1);
/// Between later ones; kubelet asks every 10 s.
const PERIOD: Duration = Duration::from_secs(10);
/// Without a call for so long, nobody asks any more.
const IDLE: Duration = Duration::from_secs(60);

/// What is kept from one call to the next. Clones share it.
#[derive(Clone)]
pub struct Stats {
    inner: Arc<Inner>,
    /// Sizes of layers, which ImageFsInfo asks for too.
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
    cgroups: HashMap<Key, Arc<Mutex<Kept>>>,
    /// The last call; `None` while no sampler runs.
    asked: Option<Instant>,
}

/// Whose cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A container's, or a pause container's.
    Container(String),
    /// A whole pod's.
    Pod(String),
}

struct Kept {
    group: Option<Group>,
    rate: Rate,
}

/// What a cgroup uses, and how fast.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What it uses.
    pub usage: Usage,
    /// Nanoseconds of processor time a second; `None` until there are two readings.
    pub nano_cores: Option<u64>,
}

impl Stats {
    /// Nothing is read before somebody asks.
    #[must_use]
    pub fn new(unified: bool, layers: Layers, tasks: Tasks) -> Self {
        Self::over(Hierarchies::of_host(unified), layers, tasks)
    }

    fn over(hierarchies: Arc<Hierarchies>, layers: Layers, tasks: Tasks) -> Self {
        let inner = Arc::new(Inner { hierarchies, networks: Networks::default(), state: Mutex::default() });
        Self { inner, layers, tasks }
    }

    /// Somebody asks: readings are taken from now on, until nobody has asked for a while.
    pub fn asked(&self) {
        if self.inner.lock().asked.replace(Instant::now()).is_none() {
            let inner = Arc::clone(&self.inner);
            self.tasks.background(async move { sample(&inner).await });
        }
    }

    /// What a container's cgroup uses. Reads files: not for a thread that others wait for.
    pub fn container(&self, id: &str, cgroups_path: &str, buffer: &mut Buffer) -> Reading {
        let kept = self.inner.kept(Key::Container(id.to_owned()), |all| Some(all.group(cgroups_path)));
        kept.map(|kept| lock(&kept).read(buffer)).unwrap_or_default()
    }

    /// What a pod's cgroup uses, by its `cgroup_parent`; `None` when it has none of its own. Reads files.
    pub fn pod(&self, id: &str, cgroup_parent: &str, buffer: &mut Buffer) -> Option<Reading> {
        let kept = self.inner.kept(Key::Pod(id.to_owned()), |all| all.parent(cgroup_parent))?;
        Some(lock(&kept).read(buffer))
    }

    /// The interfaces of a sandbox, but for `lo`; its network namespace is pinned at `path`, and its pause process is in it.
    /// Reads files, and keeps that namespace: [`Stats::forget_network`] before it is to go.
    ///
    /// # Errors
    /// NotFound when the process is not in that namespace.
    pub fn interfaces(&self, id: &str, path: &Path, pause: u32) -> io::Result<Vec<Interface>> {
        self.inner.networks.interfaces(id, path, pause)
    }

    /// Lets a sandbox's network go.
    pub fn forget_network(&self, id: &str) {
        self.inner.networks.forget(id);
    }

    /// What only metrics have of a container, and the ids of its processes. Reads files.
    pub fn details(&self, id: &str, cgroups_path: &str, buffer: &mut Buffer) -> (Details, Vec<u32>) {
        let kept = self.inner.kept(Key::Container(id.to_owned()), |all| Some(all.group(cgroups_path)));
        let Some(kept) = kept else { return (Details::default(), Vec::new()) };
        let mut kept = lock(&kept);
        let Some(group) = &mut kept.group else { return (Details::default(), Vec::new()) };
        (group.details(buffer), group.processes().unwrap_or_default())
    }

    /// The rate of something that is counted elsewhere than in a cgroup of this host.
    #[must_use]
    pub fn rated(&self, key: Key, usage: Usage) -> Reading {
        let mut state = self.inner.lock();
        let kept = state.cgroups.entry(key).or_insert_with(|| Arc::new(Mutex::new(Kept::without_group())));
        let mut kept = lock(kept);
        let nano_cores = usage.cpu.as_ref().and_then(|cpu| kept.rate.observe(usage.at, cpu.nanoseconds));
        Reading { usage, nano_cores }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, key: Key, make: impl FnOnce(&Arc<Hierarchies>) -> Option<Group>) -> Option<Arc<Mutex<Kept>>> {
        let mut state = self.lock();
        if let Some(kept) = state.cgroups.get(&key) {
            return Some(Arc::clone(kept));
        }
        let kept = Arc::new(Mutex::new(Kept { group: Some(make(&self.hierarchies)?), rate: Rate::default() }));
        state.cgroups.insert(key, Arc::clone(&kept));
        Some(kept)
    }

    /// Whether somebody asked lately. If not, everything is let go, descriptors too, and the next call begins anew.
    fn is_asked(&self) -> bool {
        let mut state = self.lock();
        let asked = state.asked.is_some_and(|asked| asked.elapsed() < IDLE);
        if !asked {
            *state = State::default();
            self.networks.clear();
        }
        asked
    }

    /// Takes a reading of all that was asked for, and forgets what is gone.
    fn read_all(&self) {
        self.networks.forget_dead();
        let all: Vec<_> = self.lock().cgroups.iter().map(|(key, kept)| (key.clone(), Arc::clone(kept))).collect();
        let mut buffer = Buffer::default();
        let gone = all.iter().filter(|(_, kept)| !lock(kept).sample(&mut buffer));
        let gone: Vec<&Key> = gone.map(|(key, _)| key).collect();
        let mut state = self.lock();
        for key in gone {
            state.cgroups.remove(key);
        }
    }
}

impl Kept {
    fn without_group() -> Self {
        Self { group: None, rate: Rate::default() }
    }

    fn read(&mut self, buffer: &mut Buffer) -> Reading {
        let Some(group) = &mut self.group else { return Reading::default() };
        let usage = group.usage(buffer);
        let nano_cores = usage.cpu.as_ref().and_then(|cpu| self.rate.observe(usage.at, cpu.nanoseconds));
        Reading { usage, nano_cores }
    }

    /// Whether it is still there.
    fn sample(&mut self, buffer: &mut Buffer) -> bool {
        match &mut self.group {
            Some(group) => match group.cpu_nanoseconds(buffer) {
                Some((at, used)) => {
                    let _ = self.rate.observe(at, used);
                    true
                }
                None => false,
            },
            // Not ours to read; whoever is asked for it takes its readings.
            None => self.rate.last_at().is_some_and(|at| {
                let age = jiff::Timestamp::now().as_nanosecond() - i128::from(at);
                age < i128::try_from(IDLE.as_nanos()).unwrap_or(i128::MAX)
            }),
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sample(inner: &Arc<Inner>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        if !inner.is_asked() {
            return;
        }
        pause = PERIOD;
        let reader = Arc::clone(inner);
        // The kernel sums up a cgroup's counters as it is read, for milliseconds when there are many.
        if let Err(error) = tokio::task::spawn_blocking(move || reader.read_all()).await {
            tracing::error!(%error, "the sampler of usage failed");
        }
    }
}

#[cfg(test)]
mod tests;
