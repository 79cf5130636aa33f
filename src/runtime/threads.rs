//! Runs computations that are too long for the threads of the async runtime.

/// Largest size, in bytes, of tenant data that is processed directly: that takes a clock tick at most.
const SHORT: usize = 1 << 20;

/// Runs a computation on this many bytes, which a tenant's request or image can make long. It takes a few clock ticks per
/// megabyte. What can be moved to another thread belongs in [`crate::joined::run_blocking`].
pub(super) fn block_in_place_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    block_in_place_if(bytes > SHORT, work)
}

/// Runs a computation on the current thread. If it is long, the other tasks of the thread move to another one first: that
/// one then runs tasks of the daemon too, and keeps their deepest stack (0.7 MB) until it ends. Not for short work.
pub(super) fn block_in_place_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    if is_long { tokio::task::block_in_place(work) } else { work() }
}
