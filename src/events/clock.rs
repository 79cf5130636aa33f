//! The clock for the times by which kubelet orders events and statuses.

use std::sync::atomic::{AtomicI64, Ordering};

/// Nanoseconds since the epoch that never repeat and never go back, even if the node's clock is set back.
///
/// Of two statuses of a pod, kubelet's cache keeps the one with the later time, whether it came from an event or from
/// PodSandboxStatus (pkg/kubelet/container/cache.go). So all these times must come from this one clock, and each must
/// be taken *before* the status is read. Then a status includes everything that happened before its time, and the later
/// of two statuses never has less information.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Clock {
    /// Returns a time later than all that were returned before: `now`, unless one of them is as late.
    pub fn stamp(&self, now: i64) -> i64 {
        let later = |last: i64| now.max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(later(last)));
        // This cannot fail: the closure always returns `Some`.
        later(last.unwrap_or_else(|last| last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_comes_twice_or_goes_back_with_the_nodes_clock() {
        let clock = Clock::default();
        let stamps = [10, 10, 7, 20, 15].map(|now| clock.stamp(now));
        assert_eq!(stamps, [10, 11, 12, 20, 21]);
    }
}
