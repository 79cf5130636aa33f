//! The kernel: what needs `unsafe`, or a thread of its own.

pub mod mounts;
