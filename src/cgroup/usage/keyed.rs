//! Parsers for the formats of cgroup files (cgroup-v2.rst, "Format").

use super::{Pressure, Stall};

/// A file with a single number. `None` for `max`.
pub(in crate::cgroup) fn single(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file with a single limit; `None` if there is no limit. v1 shows "no limit" as the largest multiple of the page
/// size, so any value above 2^62 counts as unlimited, as in cAdvisor and containerd.
pub(super) fn limit(text: &str) -> Option<u64> {
    single(text).filter(|limit| *limit <= 1 << 62)
}

/// Lines of the form `key value`.
pub(super) fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// The value of one key in a file of `key value` lines.
pub(in crate::cgroup) fn value(text: &str, key: &str) -> Option<u64> {
    flat(text).find_map(|(other, value)| (other == key).then_some(value))
}

/// Lines of the form `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, the total in microseconds. `None` when there are
/// no such lines, as on a kernel that runs with `psi=0`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some("some") => pressure.some = stall(words),
            Some("full") => pressure.full = stall(words),
            _ => {}
        }
    }
    (pressure.some.is_some() || pressure.full.is_some()).then_some(pressure)
}

fn stall<'a>(words: impl Iterator<Item = &'a str>) -> Option<Stall> {
    let (mut stall, mut seen) = (Stall::default(), false);
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "avg10" => stall.avg10 = value.parse().ok()?,
            "avg60" => stall.avg60 = value.parse().ok()?,
            "avg300" => stall.avg300 = value.parse().ok()?,
            "total" => {
                stall.nanoseconds = value.parse::<u64>().ok()?.saturating_mul(1000);
                seen = true;
            }
            _ => {}
        }
    }
    seen.then_some(stall)
}

/// Parses a device number such as `8:0`.
pub(super) fn device_numbers(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
