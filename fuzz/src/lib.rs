//! The parsers' source, without the rest of the daemon: it builds in a minute or two with a sanitizer, not in ten.
//!
//! A module here has the files of the daemon's module of its name that parse, by their path, and in the place of what they
//! only name (containerd, CRI's messages) a few lines of its own. What a target asserts stands beside them, for it sees
//! what is private to a module.

#![allow(dead_code, unused_imports, reason = "what is used of the source is what a target drives")]

#[path = "../../src/ids.rs"]
pub mod ids;
#[path = "../../src/tasks.rs"]
pub mod tasks;

pub mod api;
pub mod cdi;
pub mod cgroup;
#[path = "../../src/config/mod.rs"]
pub mod config;
pub mod containerd;
pub mod images;
pub mod logs;
pub mod lsm;
pub mod network;
pub mod settings;
pub mod spec;
pub mod streaming;
pub mod sys;
pub mod telemetry;

/// The input as `most` pieces at most, which a zero byte parts.
pub(crate) fn pieces(input: &[u8], most: usize) -> Vec<&[u8]> {
    input.splitn(most, |byte| *byte == 0).collect()
}
