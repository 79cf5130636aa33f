//! Work that the threads of all others must not wait for.

/// File-system work on a thread where it may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The closure is never cancelled, so the only error is its own panic.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What is done at once, though it is of a tenant's size: it takes a clock tick at most.
const SHORT: usize = 1 << 20;

/// [`computed`], of so many bytes.
pub(super) fn computed_of<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes <= SHORT { work() } else { computed(work) }
}

/// Computes what a tenant's request or image can make long, here and now: whoever else has this thread goes on on another
/// one. A few clock ticks a megabyte; what can be moved away goes to [`blocking`].
pub(super) fn computed<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
