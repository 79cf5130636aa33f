//! What may run at once on a node, and how much memory it may take.

use serde::Deserialize;

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Commands that Exec and ExecSync may run at once on the node, beside what is reserved; a pod has no more of them than
    /// are left free.
    pub execs: usize,
    /// Commands of ExecSync that each pod may run at once whatever others do.
    pub exec_sync_reserve: usize,
    /// The same in one container.
    pub execs_per_container: usize,
    /// Clients that may be attached, and connections that may be forwarded, at once on the node; shared like `execs`.
    pub streams: usize,
    /// The same to one container, or to one pod.
    pub streams_per_object: usize,
    /// MiB of memory that replies of ExecSync may hold together.
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
    /// A key with a value that nothing could work with.
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
        // Below this, one reply of the largest size would not fit, with the two pieces that its streams begin with.
        let budget = self.exec_reply_budget;
        (!(17..=1 << 20).contains(&budget))
            .then(|| ("limits.exec_reply_budget", format!("{budget} MiB is not between 17 and {}", 1 << 20)))
    }
}
