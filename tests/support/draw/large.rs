//! Large or deep content: long texts, many entries, paths with thousands of names. A request gets no more of it than
//! fits into a message.

use super::{Draw, TEXTS};

/// Bytes of large content in one request. A message has at most 16 MiB.
const BUDGET: usize = 7 << 20;
/// The most that the encoding of a list's entry adds to its texts.
const ENTRY: usize = 32;

impl Draw {
    /// Allows the next request to be large again.
    pub(super) fn refill(&mut self) {
        self.budget = BUDGET;
    }

    /// An unusually long text, as long as the budget lasts.
    pub(super) fn large_text(&mut self) -> String {
        let length = self.one(&[300, 4096, 5000, 70_000, 70_000, 300_000, 1_500_000]);
        // A control character of one byte takes six in JSON.
        let piece = self.one(&["x", "x", "/a", "a/", "../", "/", "\u{1}", "\"", "\u{1f980}", "a,", "*a", "é"]);
        if length > self.budget {
            return self.one(&TEXTS).to_owned();
        }
        self.budget -= length;
        let mut text = piece.repeat(length / piece.len());
        if self.chance(10) {
            text.push('\0');
        }
        text
    }

    /// A path that is deep, or contains a long name.
    pub(super) fn large_path(&mut self) -> String {
        let below = self.directory.display().to_string();
        let path = match self.below(5) {
            0 => "/a".repeat(1500),
            1 => "/a".repeat(2500),
            2 => format!("/{}", "n".repeat(255)),
            3 => format!("/{}", "n".repeat(256)),
            _ => "/..".repeat(1000) + &below + &"/./a".repeat(100),
        };
        self.budget = self.budget.saturating_sub(path.len());
        below + &path
    }

    /// The number of entries of a list, mostly few.
    pub(super) fn count(&mut self) -> usize {
        let many = self.one(&[100, 1000, 10_000, 50_000]);
        if self.chance(96) || many * ENTRY > self.budget {
            return self.below(4);
        }
        self.budget -= many * ENTRY;
        many
    }
}
