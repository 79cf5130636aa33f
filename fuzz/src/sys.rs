//! Replaces `src/sys/`: only the functions that read files.

#[path = "../../src/sys/read.rs"]
pub mod read;
