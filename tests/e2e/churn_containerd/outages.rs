//! Kills daemons, and records when each one was down.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::bed::Bed;
use crate::harness::Outcome;

/// Seconds since the node's boot. The containers of this test read the same clock, so that all times can be compared.
pub fn now() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

/// splitmix64: the same seed repeats the kills and pods of a run, but not how the calls interleave.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A daemon that the test kills repeatedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    Containerd,
    Pontoon,
}

impl Daemon {
    /// Its name as an argument of `bed.sh`.
    fn of_bed(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Pontoon => "daemon",
        }
    }
}

/// From when to when a daemon was down; no end while it still is.
type Away = (f64, Option<f64>);

/// All outages so far.
#[derive(Default)]
pub struct Outages(Mutex<BTreeMap<Daemon, Vec<Away>>>);

impl Outages {
    fn goes(&self, daemon: Daemon) {
        self.lock().entry(daemon).or_default().push((now(), None));
    }

    fn is_back(&self, daemon: Daemon) {
        if let Some(last) = self.lock().entry(daemon).or_default().last_mut() {
            last.1 = Some(now());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Daemon, Vec<Away>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many of the seconds between two times all daemons were running.
    pub fn all_there(&self, from: f64, to: f64) -> f64 {
        let mut away: Vec<(f64, f64)> = self
            .lock()
            .values()
            .flatten()
            .map(|(start, end)| (start.max(from), end.unwrap_or(to).min(to)))
            .filter(|(start, end)| start < end)
            .collect();
        away.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (mut there, mut until) = (to - from, from);
        for (start, end) in away {
            there -= (end - start.max(until)).max(0.0);
            until = until.max(end);
        }
        there
    }

    /// A line for each kill and each return of a daemon, with its time.
    pub fn told(&self, from: f64, to: f64) -> Vec<(f64, String)> {
        let mut lines = Vec::new();
        for (daemon, away) in self.lock().iter() {
            for (start, end) in away {
                lines.push((*start, format!("-- {daemon:?} is killed")));
                lines.extend(end.map(|end| (end, format!("-- {daemon:?} is back"))));
            }
        }
        lines.retain(|(at, _)| (from..=to).contains(at));
        lines
    }

    /// How often a daemon was killed, and its longest outage in seconds.
    pub fn of(&self, daemon: Daemon) -> (usize, f64) {
        let outages = self.lock();
        let away = outages.get(&daemon).map(Vec::as_slice).unwrap_or_default();
        let longest = away.iter().filter_map(|(start, end)| end.map(|end| end - start)).fold(0.0, f64::max);
        (away.len(), longest)
    }
}

/// Kills a daemon `times` times: each kill 0.3 to 3 s after it was back, each restart up to 2 s after the kill.
pub async fn kill(bed: &Bed, outages: &Outages, daemon: Daemon, times: u64, random: &mut Random) -> Outcome {
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(300 + random.below(2700))).await;
        outages.goes(daemon);
        bed.daemon(daemon.of_bed(), "kill").await?;
        tokio::time::sleep(Duration::from_millis(random.below(2000))).await;
        start(bed, daemon).await?;
        outages.is_back(daemon);
    }
    Ok(())
}

/// Starts a daemon, and repeats a failed start as systemd does with `Restart=always`: Pontoon exits when containerd is
/// killed during Pontoon's first calls to it.
async fn start(bed: &Bed, daemon: Daemon) -> Outcome {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match bed.daemon(daemon.of_bed(), "start").await {
            Ok(()) => return Ok(()),
            Err(error) => println!("    {daemon:?} is started once more: {}", first_line(&error)),
        }
        bed.daemon(daemon.of_bed(), "kill").await?;
    }
    bed.daemon(daemon.of_bed(), "start").await
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().last().unwrap_or_default().to_owned()
}
