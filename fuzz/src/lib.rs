//! The source files of the daemon's parsers, without the rest of the daemon: with a sanitizer this builds in one or two
//! minutes, not in ten.
//!
//! Each module includes, by path, those files of the daemon's module of the same name that parse. Types that these
//! files only use (of containerd, of CRI) are replaced with a few lines. The assertions of a target are in the same
//! module, because they need its private items.

#![allow(dead_code, unused_imports, reason = "what is used of the source is what a target drives")]

#[path = "../../src/ids.rs"]
pub mod ids;
#[path = "../../src/joined.rs"]
pub mod joined;
#[path = "../../src/log_keys.rs"]
pub mod log_keys;
#[path = "../../src/mutex.rs"]
pub mod mutex;
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

/// Splits the input at zero bytes, into `most` pieces at most.
pub(crate) fn pieces(input: &[u8], most: usize) -> Vec<&[u8]> {
    input.splitn(most, |byte| *byte == 0).collect()
}
