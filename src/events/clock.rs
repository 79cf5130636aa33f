//! The times that kubelet orders what it hears by.

use std::sync::atomic::{AtomicI64, Ordering};

/// Nanoseconds since the epoch that never come twice and never go back, also when the node's clock is set back.
///
/// kubelet's cache keeps of two statuses of a pod the one of the later time, be it an event's or PodSandboxStatus's
/// (pkg/kubelet/container/cache.go): all have to be of this one clock, and be taken *before* the status is looked at. Then
/// a status has all that happened before its time, and of two statuses the later one is never the poorer one.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Clock {
    /// A time after all that were given before; `now` unless that is one of them.
    pub fn stamp(&self, now: i64) -> i64 {
        let later = |last: i64| now.max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(later(last)));
        // The closure never refuses.
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
