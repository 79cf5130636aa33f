//! As `src/sys/`, with what reads files.

#[path = "../../src/sys/read.rs"]
pub mod read;
