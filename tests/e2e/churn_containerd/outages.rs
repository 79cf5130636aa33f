//! When which daemon was away, and the task that kills it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::bed::Bed;
use crate::harness::Outcome;

/// Seconds since the node started, as the containers of this test read it too: one clock for all that is compared.
pub fn now() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

/// splitmix64: the kills and pods of a run can be had again by its seed, though not what comes between them.
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A daemon that is killed again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    Containerd,
    Pontoon,
}

impl Daemon {
    /// What `bed.sh` calls it.
    fn of_bed(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Pontoon => "daemon",
        }
    }
}

/// From when to when a daemon was away; no end as long as it is.
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

    /// How many seconds between two moments every daemon was there.
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

    /// A line for each time that a daemon went or came, with its moment.
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

    /// How often a daemon was killed, and the longest time that it took to be back.
    pub fn of(&self, daemon: Daemon) -> (usize, f64) {
        let outages = self.lock();
        let away = outages.get(&daemon).map(Vec::as_slice).unwrap_or_default();
        let longest = away.iter().filter_map(|(start, end)| end.map(|end| end - start)).fold(0.0, f64::max);
        (away.len(), longest)
    }
}

/// Kills a daemon so many times: 0.3 to 3 s after it was back, for up to 2 s.
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

/// As systemd does with `Restart=always`: Pontoon ends when containerd is killed in the middle of its first questions.
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
