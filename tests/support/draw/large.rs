//! What is large or deep: long texts, many entries, paths of thousands of names. A request has so much of it that it fits
//! into a message.

use super::{Draw, TEXTS};

/// Bytes of large things in one request; a message has at most 16 MiB.
const BUDGET: usize = 7 << 20;
/// An entry of a list takes at most so much more than its texts, encoded.
const ENTRY: usize = 32;

impl Draw {
    /// The next request may be large again.
    pub(super) fn refill(&mut self) {
        self.room = BUDGET;
    }

    /// A text that is longer than anybody expects, as long as there is room for it.
    pub(super) fn large_text(&mut self) -> String {
        let length = self.one(&[300, 4096, 5000, 70_000, 70_000, 300_000, 1_500_000]);
        // A byte that is a control character takes six in JSON.
        let piece = self.one(&["x", "x", "/a", "a/", "../", "/", "\u{1}", "\"", "\u{1f980}", "a,", "*a", "é"]);
        if length > self.room {
            return self.one(&TEXTS).to_owned();
        }
        self.room -= length;
        let mut text = piece.repeat(length / piece.len());
        if self.chance(10) {
            text.push('\0');
        }
        text
    }

    /// A path that is deep, or has one long name.
    pub(super) fn large_path(&mut self) -> String {
        let below = self.directory.display().to_string();
        let path = match self.below(5) {
            0 => "/a".repeat(1500),
            1 => "/a".repeat(2500),
            2 => format!("/{}", "n".repeat(255)),
            3 => format!("/{}", "n".repeat(256)),
            _ => "/..".repeat(1000) + &below + &"/./a".repeat(100),
        };
        self.room = self.room.saturating_sub(path.len());
        below + &path
    }

    /// How many entries a list has: mostly few.
    pub(super) fn count(&mut self) -> usize {
        let many = self.one(&[100, 1000, 10_000, 50_000]);
        if self.chance(96) || many * ENTRY > self.room {
            return self.below(4);
        }
        self.room -= many * ENTRY;
        many
    }
}
