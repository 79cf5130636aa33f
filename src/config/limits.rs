//! How many operations may run at once on a node, and how much memory they may use.

use serde::Deserialize;

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Commands of Exec and ExecSync that may run at once on the node, in addition to the reserve. A pod may start
    /// another one only while it has fewer than are free.
    pub execs: usize,
    /// Commands of ExecSync that each pod may run at once, whatever other pods do.
    pub exec_sync_reserve: usize,
    /// Commands that may run at once in one container.
    pub execs_per_container: usize,
    /// Attached clients and forwarded connections at once on the node; divided among pods like `execs`.
    pub streams: usize,
    /// Attached clients of one container, or forwarded connections of one pod, at once.
    pub streams_per_object: usize,
    /// MiB of memory that all replies of ExecSync may use together.
    pub exec_reply_budget: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            execs: 256,
            exec_sync_reserve: 4,
            execs_per_container: 64,
            streams: 1024,
            streams_per_object: 256,
            exec_reply_budget: 128,
        }
    }
}

impl Limits {
    /// The first key whose value is out of range, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let counts = [
            ("limits.execs", self.execs),
            ("limits.execs_per_container", self.execs_per_container),
            ("limits.streams", self.streams),
            ("limits.streams_per_object", self.streams_per_object),
        ];
        if let Some((key, count)) = counts.into_iter().find(|(_, count)| !(1..=1 << 20).contains(count)) {
            return Some((key, format!("{count} is not between 1 and {}", 1 << 20)));
        }
        if self.exec_sync_reserve > 1 << 10 {
            return Some(("limits.exec_sync_reserve", format!("{} is more than {}", self.exec_sync_reserve, 1 << 10)));
        }
        // With less, a reply of the largest size would not fit together with the two pieces that its streams start
        // with.
        let budget = self.exec_reply_budget;
        (!(17..=1 << 20).contains(&budget))
            .then(|| ("limits.exec_reply_budget", format!("{budget} MiB is not between 17 and {}", 1 << 20)))
    }
}
