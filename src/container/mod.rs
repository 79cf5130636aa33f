//! The container: its state, its record, its streams.

pub mod io;
