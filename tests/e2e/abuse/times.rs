//! How long a victim's calls take without an attack and beside it, and whether that is too long. docs/limits.md gives
//! the reasons for the numbers; tests/limits.rs has the tests of this file.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;

/// What a round of the victim measures, in this order: RunPodSandbox, CreateContainer and StartContainer together;
/// ExecSync; ListPodSandbox, ListContainers and ListImages together.
pub const CALLS: [&str; 3] = ["pod start", "exec", "lists"];

/// The times of one round, in the order of [`CALLS`].
pub type Round = [Duration; 3];

/// The longest time that a call of the victim, or a restart of the daemon, may take.
pub const LIMIT: Duration = Duration::from_secs(2);

/// How many times as long as without the attack a call may take beside it.
const FACTOR: f64 = 1.5;

/// What one of the [`CALLS`] may take.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Each time.
    pub limit: Duration,
    /// By how much the median may be longer beside the attack, even if that is more than [`FACTOR`] times as long.
    /// `None`: only `limit` counts.
    pub more: Option<Duration>,
}

impl Allowed {
    const fn more_by(millis: u64) -> Self {
        Self { limit: LIMIT, more: Some(Duration::from_millis(millis)) }
    }
}

/// In the order of [`CALLS`]. The differences are a tenth of what Kubernetes allows: 5 s for the start of a pod, 1 s
/// for a probe (`timeoutSeconds`), and 1 s between two lists (the period of kubelet's PLEG).
pub const ALLOWED: [Allowed; 3] = [Allowed::more_by(500), Allowed::more_by(100), Allowed::more_by(100)];

/// Fails if one of the calls took longer than it may each time.
pub fn within_limits(round: &Round, allowed: &[Allowed; 3]) -> anyhow::Result<()> {
    for ((call, took), allowed) in CALLS.iter().zip(round).zip(allowed) {
        ensure!(*took < allowed.limit, "the victim's {call} took {took:?}");
    }
    Ok(())
}

/// The times of several rounds, for each of [`CALLS`].
#[derive(Clone, Debug, Default)]
pub struct Times([Vec<Duration>; 3]);

impl Times {
    pub fn add(&mut self, round: Round) {
        for (times, took) in self.0.iter_mut().zip(round) {
            times.push(took);
        }
    }

    pub fn rounds(&self) -> usize {
        self.0[0].len()
    }

    fn median(&self, call: usize) -> Duration {
        let mut times = self.0[call].clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self, call: usize) -> Duration {
        self.0[call].iter().max().copied().unwrap_or_default()
    }
}

/// A victim's times without an attack and beside it.
pub struct Comparison<'a> {
    pub alone: &'a Times,
    pub beside: &'a Times,
}

impl Comparison<'_> {
    fn factor(&self, call: usize) -> f64 {
        self.beside.median(call).as_secs_f64() / self.alone.median(call).as_secs_f64()
    }

    /// Fails if a median is more than [`FACTOR`] times as long beside the attack, and also by more than what is
    /// allowed for that call; and if there was no round beside the attack.
    pub fn judge(&self, allowed: &[Allowed; 3]) -> anyhow::Result<()> {
        ensure!(self.beside.rounds() > 0, "the attack was over before the victim's first round");
        for (call, (name, allowed)) in CALLS.iter().zip(allowed).enumerate() {
            let Some(more) = allowed.more else { continue };
            let (alone, beside) = (self.alone.median(call), self.beside.median(call));
            ensure!(
                beside <= alone.mul_f64(FACTOR) || beside <= alone + more,
                "the victim's {name} takes {beside:?} beside the attack and {alone:?} alone: more than {FACTOR} times \
                 as long, and more than {more:?} longer"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        for (call, name) in CALLS.iter().enumerate() {
            let [alone, beside] = [self.alone, self.beside].map(|times| ms(times.median(call)));
            let (factor, longest) = (self.factor(call), ms(self.beside.longest(call)));
            write!(f, "{name} {alone} alone, {beside} beside the attack ({factor:.1} times, at most {longest}); ")?;
        }
        write!(f, "medians of {} and {} rounds", self.alone.rounds(), self.beside.rounds())
    }
}
