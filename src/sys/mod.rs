//! The kernel's calls that neither std nor tokio wraps, and every line of `unsafe`.

pub mod beneath;
pub mod changes;
pub mod fifo;
pub mod heap;
pub mod mounts;
pub mod nsfs;
pub mod userns;
