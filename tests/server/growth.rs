//! What a verb costs grows no faster than what its request, or an image, has in it: how much that is, a tenant decides.
//!
//! Of each kind of entry there are a hundred, a thousand and ten thousand, and what is compared is the CPU time that the
//! server takes. Ten times as many cost ten times as much, beside what the call costs by itself; a square would be a hundred.
//! The best of a few runs counts, since others use the processors too.

mod containers;
mod pods;

use std::time::Duration;

use crate::support::server::Node;

const SIZES: [usize; 3] = [100, 1000, 10_000];
/// The growth that is taken for linear: caches and allocators have their part in it.
const MOST: u32 = 25;
/// What a thousand entries are taken to cost at least: below, the clock of a busy machine decides.
const LEAST: Duration = Duration::from_millis(2);
/// The same as a part of what the call costs by itself, which differs by that much from run to run.
const NOISE: u32 = 10;
const RUNS: usize = 3;

/// What was measured.
#[derive(Default)]
struct Growth {
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Growth {
    /// `cost` makes a call with so many entries; its CPU time.
    async fn of(&mut self, name: &str, cost: impl AsyncFn(usize) -> Duration) {
        self.of_sizes(name, SIZES, cost).await;
    }

    /// The same for what there are not ten thousand of.
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

    /// Shows all of it with `--nocapture`.
    fn finish(self) {
        println!("{}", self.lines.join("\n"));
        assert!(self.wrong.is_empty(), "these grow faster than what is in them:\n{}", self.wrong.join("\n"));
    }
}

/// Whether the last step, of ten times as many, costs no more than that: what is the same at all sizes is taken away.
fn is_linear([few, many, most]: [Duration; 3]) -> bool {
    let thousand = many.saturating_sub(few).max(LEAST).max(few / NOISE);
    most.saturating_sub(few) <= thousand * MOST
}

/// The server's CPU time for a call.
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
    // A call that costs much by itself, and a thousand that happened to cost less than a hundred.
    assert!(is_linear([194, 183, 509].map(Duration::from_millis)));
    // A millisecond of a thousand is a tenth of a second of ten thousand.
    assert!(!is_linear(cost(30.0, 0.001, 1e-6)) && !is_linear(cost(3.0, 0.0, 1e-6)));
}
