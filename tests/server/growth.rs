//! The cost of a verb must not grow faster than the number of entries in its request or image, because a tenant chooses
//! that number.
//!
//! Each kind of entry is measured with a hundred, a thousand and ten thousand entries, by the CPU time of the server.
//! Ten times the entries may cost ten times as much, in addition to the call's base cost. A quadratic cost would be a
//! hundred times as much. The best of a few runs counts, since other processes use the CPUs too.

mod containers;
mod pods;

use std::time::Duration;

use crate::support::server::Node;

const SIZES: [usize; 3] = [100, 1000, 10_000];
/// The growth that still counts as linear, with a margin for caches and allocators.
const MOST: u32 = 25;
/// The assumed minimum cost of a thousand entries. Below it, the measurement on a busy machine is noise.
const LEAST: Duration = Duration::from_millis(3);
/// The same minimum as a fraction of the call's base cost, which varies by that much from run to run.
const NOISE: u32 = 10;
/// As long as the growth does not look linear. What is quadratic does not in any number of runs, and noise seldom lasts.
const RUNS: usize = 6;

#[derive(Default)]
struct Growth {
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Growth {
    /// Measures one kind of entry. `cost` makes a call with the given number of entries, and returns its CPU time.
    async fn of(&mut self, name: &str, cost: impl AsyncFn(usize) -> Duration) {
        self.of_sizes(name, SIZES, cost).await;
    }

    /// Like [`Growth::of`], with other sizes, for calls that cannot have ten thousand entries.
    async fn of_sizes(&mut self, name: &str, sizes: [usize; 3], cost: impl AsyncFn(usize) -> Duration) {
        let mut best = [Duration::MAX; 3];
        for _ in 0..RUNS {
            for (size, best) in sizes.into_iter().zip(&mut best) {
                *best = cost(size).await.min(*best);
            }
            if is_linear(best) {
                break;
            }
        }
        let line = format!("{name}: {best:?} of {sizes:?}");
        if !is_linear(best) {
            self.wrong.push(line.clone());
        }
        self.lines.push(line);
    }

    /// Fails if any growth was too fast. All results are shown with `--nocapture`.
    fn finish(self) {
        println!("{}", self.lines.join("\n"));
        assert!(self.wrong.is_empty(), "these grow faster than what is in them:\n{}", self.wrong.join("\n"));
    }
}

/// Whether the step to ten times the entries costs at most [`MOST`] times as much. The cost of the smallest size is
/// subtracted as the base cost.
fn is_linear([few, many, most]: [Duration; 3]) -> bool {
    let thousand = many.saturating_sub(few).max(LEAST).max(few / NOISE);
    most.saturating_sub(few) <= thousand * MOST
}

/// Returns the result of a call, and the server's CPU time for it.
async fn measured<T>(node: &Node, call: impl Future<Output = T>) -> (T, Duration) {
    let before = node.cpu_time();
    let result = call.await;
    (result, node.cpu_time() - before)
}

#[test]
fn a_square_is_seen_and_what_is_linear_is_not() {
    let cost = |base: f64, line: f64, square: f64| {
        SIZES.map(|size| Duration::from_secs_f64((base + line * size as f64 + square * (size * size) as f64) / 1e3))
    };
    assert!(is_linear(cost(30.0, 0.01, 0.0)) && is_linear(cost(3.0, 0.0001, 0.0)));
    // A call with a high base cost, where a thousand entries happened to cost less than a hundred.
    assert!(is_linear([194, 183, 509].map(Duration::from_millis)));
    // A quadratic cost of one millisecond for a thousand entries is a tenth of a second for ten thousand.
    assert!(!is_linear(cost(30.0, 0.001, 1e-6)) && !is_linear(cost(3.0, 0.0, 1e-6)));
}
