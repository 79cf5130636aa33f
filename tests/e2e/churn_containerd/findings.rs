//! What went wrong, by kind, each with the evidence that is needed to find its cause.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

/// How many findings of a kind are printed in full. The file has all of them.
const SHOWN: usize = 3;
/// How many lines of a daemon's log a finding has at most.
const LOG_LINES: usize = 40;

/// The kinds of findings of a churn. See [`Kind::words`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    StartedTwice,
    RanThoughItsStartFailed,
    TwoAttemptsRanToTheirEnd,
    TwoAttemptsAtOnce,
    RanOnAfterItsEndWasTold,
    ExitIsNotTheProcesses,
    ExitLost,
    ExitLostByContainerd,
    ExitNotTold,
    CallLongerThanThirtySeconds,
    VerbNeverDone,
    SandboxLost,
    ContainerLost,
    StillListed,
    LeftOnTheNode,
    SocketLeftByAShim,
    BundleLeftByContainerd,
    StartUndone,
}

impl Kind {
    /// All kinds, in the order of the report.
    pub const ALL: [Self; 18] = [
        Self::StartedTwice,
        Self::RanThoughItsStartFailed,
        Self::TwoAttemptsRanToTheirEnd,
        Self::TwoAttemptsAtOnce,
        Self::RanOnAfterItsEndWasTold,
        Self::ExitIsNotTheProcesses,
        Self::ExitLost,
        Self::ExitLostByContainerd,
        Self::ExitNotTold,
        Self::CallLongerThanThirtySeconds,
        Self::VerbNeverDone,
        Self::SandboxLost,
        Self::ContainerLost,
        Self::StillListed,
        Self::LeftOnTheNode,
        Self::SocketLeftByAShim,
        Self::BundleLeftByContainerd,
        Self::StartUndone,
    ];

    /// Whether such a finding is an error. The other kinds are only counted.
    pub fn is_wrong(self) -> bool {
        !matches!(
            self,
            Self::ExitLostByContainerd | Self::SocketLeftByAShim | Self::BundleLeftByContainerd | Self::StartUndone
        )
    }

    /// A description of the kind.
    pub fn words(self) -> &'static str {
        match self {
            Self::StartedTwice => "one container started twice",
            Self::RanThoughItsStartFailed => "ran on, or to its end, though its start was told as failed",
            Self::TwoAttemptsRanToTheirEnd => "two attempts of one container ran to their end",
            Self::TwoAttemptsAtOnce => "two attempts of one container ran at the same time",
            Self::RanOnAfterItsEndWasTold => "ran on after its end was told",
            Self::ExitIsNotTheProcesses => "exit code is not the process's own (but for 255 Unknown)",
            Self::ExitLost => "exit told as 255 Unknown",
            Self::ExitLostByContainerd => {
                "exit told as 255 Unknown, after containerd dropped the task by itself (may be)"
            }
            Self::ExitNotTold => "the process ended and its exit was not told",
            Self::CallLongerThanThirtySeconds => "call took longer than 30 s with all daemons there",
            Self::VerbNeverDone => "call fails for ever",
            Self::SandboxLost => "a ready sandbox was lost",
            Self::ContainerLost => "a container that was made was lost",
            Self::StillListed => "listed at the end and cannot be removed",
            Self::LeftOnTheNode => "left on the node",
            Self::SocketLeftByAShim => "socket of a shim that has ended, which containerd does not remove (may be)",
            Self::BundleLeftByContainerd => {
                "bundle that containerd was killed within removing, and does not look at again (may be)"
            }
            Self::StartUndone => "started, and ended before its failed start was told (may be)",
        }
    }
}

/// All findings of one churn.
#[derive(Default)]
pub struct Findings(Mutex<BTreeMap<Kind, Vec<String>>>);

impl Findings {
    /// Adds a finding: what it is about, and what led to it.
    pub fn add(&self, kind: Kind, about: &str, evidence: &[String]) {
        let mut text = format!("{}: {about}\n", kind.words());
        for line in evidence {
            let _ = writeln!(text, "    | {line}");
        }
        self.lock().entry(kind).or_default().push(text);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Kind, Vec<String>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The number of findings of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.lock().get(&kind).map_or(0, Vec::len)
    }

    /// The number of findings that are errors.
    pub fn wrong(&self) -> usize {
        Kind::ALL.into_iter().filter(|kind| kind.is_wrong()).map(|kind| self.count(kind)).sum()
    }

    /// Prints the counts, and the first findings of each kind that is an error. Writes all findings and counts to
    /// NAME.findings and NAME.counts in `directory`.
    pub fn report(&self, directory: &Path, name: &str, about: &str) -> anyhow::Result<()> {
        let all = self.lock();
        let mut counts = format!("{about}\n");
        for kind in Kind::ALL {
            let _ = writeln!(counts, "{}\t{}", all.get(&kind).map_or(0, Vec::len), kind.words());
        }
        for line in counts.lines() {
            println!("    {}", line.replace('\t', "  "));
        }
        let mut whole = String::new();
        for findings in all.values() {
            whole.extend(findings.iter().map(|finding| format!("{finding}\n")));
        }
        for (_, findings) in all.iter().filter(|(kind, _)| kind.is_wrong()) {
            for finding in findings.iter().take(SHOWN) {
                println!("\n    {}", finding.replace('\n', "\n    "));
            }
        }
        std::fs::write(directory.join(format!("{name}.counts")), counts)?;
        std::fs::write(directory.join(format!("{name}.findings")), whole)?;
        Ok(())
    }
}

/// The lines of a daemon's log that name one of `ids`, without the line that containerd logs for each shim whenever it
/// starts.
pub fn log_lines(logs: &Path, daemon: &str, ids: &[&str]) -> Vec<String> {
    let text = std::fs::read(logs.join(format!("{daemon}.log"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| ids.iter().any(|id| line.contains(id)));
    let lines = lines.filter(|line| !line.contains("connecting to shim"));
    lines.map(|line| format!("{daemon}: {}", line.chars().take(600).collect::<String>())).take(LOG_LINES).collect()
}
