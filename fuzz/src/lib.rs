//! The parsers' source, without the rest of the daemon: it builds in a minute with a sanitizer, not in ten.

#![allow(dead_code, unused_imports, reason = "what is used of the source is what a target drives")]

#[path = "../../src/ids.rs"]
pub mod ids;
#[path = "../../src/tasks.rs"]
pub mod tasks;

pub mod streaming;
