//! The growth rate of a counter.

/// The minimum time between the two readings of a rate. A shorter interval gives no useful rate.
const WINDOW: i64 = 1_000_000_000;

/// The readings with which the next one is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// The newest reading that is at least [`WINDOW`] older than `last`.
    before: Option<Reading>,
    last: Option<Reading>,
}

/// A time and the CPU time used until then, both in nanoseconds.
type Reading = (i64, u64);

impl Rate {
    /// Takes a reading, and returns the nanoseconds used per second since a reading that is at least a second older.
    /// `None` for the first reading, and after the counter or the clock went back.
    pub(super) fn observe(&mut self, at: i64, used: u64) -> Option<u64> {
        match self.last {
            Some((last_at, last_used)) if used < last_used || at < last_at => {
                *self = Self { before: None, last: Some((at, used)) };
            }
            // More than one reading per second does not narrow the window.
            Some((last_at, _)) if at - last_at < WINDOW => {}
            last => *self = Self { before: last, last: Some((at, used)) },
        }
        let (before_at, before_used) = self.before?;
        let (elapsed, grown) = (u64::try_from(at - before_at).ok()?, used.checked_sub(before_used)?);
        let rate = u128::from(grown) * 1_000_000_000 / u128::from(elapsed.max(1));
        u64::try_from(rate).ok()
    }

    /// When `last` was taken.
    pub(super) fn last_at(&self) -> Option<i64> {
        self.last.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_rate_is_of_the_time_between_two_readings() {
        let mut rate = Rate::default();
        assert_eq!(rate.observe(10 * SECOND, 5_000), None);
        assert_eq!(rate.observe(12 * SECOND, 1_000_005_000), Some(500_000_000));
        assert_eq!(rate.observe(22 * SECOND, 1_000_005_000), Some(0));
    }

    #[test]
    fn frequent_requests_do_not_narrow_the_window() {
        let mut rate = Rate::default();
        rate.observe(0, 0);
        assert_eq!(rate.observe(SECOND / 2, 100), None);
        assert_eq!(rate.observe(SECOND, 1_000), Some(1_000));
        assert_eq!(rate.observe(SECOND + 1_000, 1_000), Some(999));
        assert_eq!(rate.observe(SECOND * 3 / 2, 3_000), Some(2_000));
        assert_eq!(rate.observe(SECOND * 2, 3_000), Some(2_000));
    }

    #[test]
    fn a_cgroup_made_anew_begins_anew() {
        let mut rate = Rate::default();
        rate.observe(0, 5_000);
        assert_eq!(rate.observe(2 * SECOND, 10), None);
        assert_eq!(rate.observe(3 * SECOND, 20), Some(10));
        assert_eq!(rate.observe(SECOND, 30), None);
    }

    proptest! {
        #[test]
        fn no_rate_is_above_the_fastest_growth(steps in prop::collection::vec((1i64..3 * SECOND, 0u64..4_000), 1..40)) {
            let (mut rate, mut at, mut used) = (Rate::default(), 0, 0);
            for (elapsed, cores) in steps {
                at += elapsed;
                used += cores * elapsed.unsigned_abs() / 1000;
                if let Some(cores) = rate.observe(at, used) {
                    prop_assert!(cores <= 4_000_000_000);
                }
            }
        }
    }
}
