//! Detects pulls that are too slow. Progress means throughput, not any single byte: a registry that sends one byte an
//! hour is as good as dead. A layer that takes long to unpack is not too slow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::containerd::{Progress, Step};

/// The minimum speed of a download.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Minimum of bytes per second, as a mean over the window.
    pub bytes_per_second: u64,
    /// The window; zero disables the check.
    pub window: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_per_second: 1024, window: Duration::from_secs(300) }
    }
}

/// Follows one pull. Needs a call of [`Monitor::tick`] each second.
#[derive(Debug)]
pub(super) struct Monitor {
    pace: Pace,
    /// Whether the registry has been queried. Before that the pull waits for its slot, which is not the registry's
    /// fault.
    started: bool,
    blobs: BTreeMap<String, Blob>,
    /// Bytes downloaded so far.
    total: u64,
    at_last_tick: u64,
    /// Bytes of all pulls together at the last tick.
    all_at_last_tick: u64,
    /// Bytes of each second that counted, the newest last.
    seconds: VecDeque<u64>,
}

#[derive(Debug)]
struct Blob {
    step: Step,
    bytes: u64,
}

impl Monitor {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            started: false,
            blobs: BTreeMap::new(),
            total: 0,
            at_last_tick: 0,
            all_at_last_tick: 0,
            seconds: VecDeque::new(),
        }
    }

    /// Starts the measurement: from now on, the pull waits for the registry.
    pub(super) fn start(&mut self) {
        self.started = true;
    }

    /// Processes one progress message, and adds its new bytes to `all`, the sum over all pulls.
    pub(super) fn observe(&mut self, progress: Progress, all: &AtomicU64) {
        if progress.step == Step::Other {
            return;
        }
        let blob = self.blobs.entry(progress.name).or_insert(Blob { step: progress.step, bytes: 0 });
        blob.step = progress.step;
        if matches!(progress.step, Step::Downloading | Step::Complete) && progress.bytes > blob.bytes {
            let new = progress.bytes - blob.bytes;
            blob.bytes = progress.bytes;
            self.total += new;
            all.fetch_add(new, Ordering::Relaxed);
        }
    }

    /// To be called each second; returns true when the pull is too slow.
    pub(super) fn tick(&mut self, all: &AtomicU64) -> bool {
        let own = self.total - self.at_last_tick;
        self.at_last_tick = self.total;
        let all = all.load(Ordering::Relaxed);
        // A layer may wait in containerd's queue behind those of other pulls (containerd downloads few at a time); then
        // their progress counts.
        let others = all.saturating_sub(self.all_at_last_tick);
        self.all_at_last_tick = all;
        if !self.started || !self.counts() {
            return false;
        }
        self.seconds.push_back(if self.downloading() { own } else { others });
        let window = usize::try_from(self.pace.window.as_secs()).unwrap_or(usize::MAX);
        if window == 0 || self.seconds.len() < window {
            return false;
        }
        while self.seconds.len() > window {
            self.seconds.pop_front();
        }
        let sum: u64 = self.seconds.iter().sum();
        sum < self.pace.bytes_per_second.saturating_mul(self.pace.window.as_secs())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.total
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// The blobs that are not complete, for an error message.
    pub(super) fn waiting(&self) -> String {
        let pending = self.blobs.iter().filter(|(_, blob)| is_pending(blob.step));
        let mut names: Vec<String> =
            pending.take(5).map(|(name, blob)| format!("{name} ({} bytes so far)", blob.bytes)).collect();
        if names.is_empty() {
            names.push("the registry's first answer".to_owned());
        }
        names.join(", ")
    }

    /// Whether this second counts: something has to be downloaded, and nothing is being unpacked. Before the first blob
    /// is known, the registry is being queried for the manifest, which counts too.
    fn counts(&self) -> bool {
        let unpacking = self.blobs.values().any(|blob| blob.step == Step::Extracting);
        let pending = self.blobs.is_empty() || self.blobs.values().any(|blob| is_pending(blob.step));
        pending && !unpacking
    }

    fn downloading(&self) -> bool {
        self.blobs.values().any(|blob| blob.step == Step::Downloading)
    }
}

fn is_pending(step: Step) -> bool {
    matches!(step, Step::Waiting | Step::Downloading)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> Monitor {
        let mut monitor = Monitor::new(Pace { bytes_per_second: 10, window: Duration::from_secs(5) });
        monitor.start();
        monitor
    }

    fn tell(monitor: &mut Monitor, step: Step, bytes: u64, all: &AtomicU64) {
        monitor.observe(Progress { step, name: "layer".to_owned(), bytes }, all);
    }

    #[test]
    fn a_byte_now_and_then_is_no_progress() {
        let (mut monitor, all) = (monitor(), AtomicU64::new(0));
        let slow = (1..=5).map(|second| {
            tell(&mut monitor, Step::Downloading, second, &all);
            monitor.tick(&all)
        });
        assert_eq!(slow.collect::<Vec<_>>(), [false, false, false, false, true]);
        assert!(monitor.waiting().contains("layer (5 bytes"), "{}", monitor.waiting());
    }

    #[test]
    fn a_steady_pace_goes_on() {
        let (mut monitor, all) = (monitor(), AtomicU64::new(0));
        for second in 1..=100 {
            tell(&mut monitor, Step::Downloading, second * 10, &all);
            assert!(!monitor.tick(&all), "second {second}");
        }
    }

    #[test]
    fn unpacking_takes_as_long_as_it_takes() {
        let (mut monitor, all) = (monitor(), AtomicU64::new(0));
        tell(&mut monitor, Step::Complete, 100, &all);
        for _ in 0..10 {
            assert!(!monitor.tick(&all));
        }
        tell(&mut monitor, Step::Extracting, 1, &all);
        monitor.observe(Progress { step: Step::Waiting, name: "next".to_owned(), bytes: 0 }, &all);
        for _ in 0..10 {
            assert!(!monitor.tick(&all));
        }
    }

    #[test]
    fn waiting_behind_other_pulls_is_not_slow() {
        let (mut monitor, all) = (monitor(), AtomicU64::new(0));
        tell(&mut monitor, Step::Waiting, 0, &all);
        for _ in 0..10 {
            all.fetch_add(10, Ordering::Relaxed);
            assert!(!monitor.tick(&all));
        }
        let slow: Vec<bool> = (0..5).map(|_| monitor.tick(&all)).collect();
        assert!(slow[4], "and when the others stand still too, it is");
    }

    #[test]
    fn a_registry_that_never_answers_is_too_slow() {
        let (mut monitor, all) = (monitor(), AtomicU64::new(0));
        assert!((0..5).any(|_| monitor.tick(&all)));
    }
}
