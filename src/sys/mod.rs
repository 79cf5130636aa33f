//! System calls that neither std nor tokio wraps, and all code that needs `unsafe`.

pub mod beneath;
pub mod changes;
pub mod dump;
pub mod fifo;
pub mod heap;
#[cfg(test)]
#[path = "../../tests/support/hung.rs"]
pub mod hung;
mod idmap;
pub mod mountinfo;
pub mod mounts;
pub mod nsfs;
pub mod pages;
pub mod read;
pub mod remove_tree;
pub mod userns;
pub mod write;
