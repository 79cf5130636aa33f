//! Runs work that must not block the threads of the async runtime.

/// Runs file-system work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The closure is never cancelled, so the only possible error is its own panic.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Largest size, in bytes, of tenant data that is processed directly: that takes a clock tick at most.
const SHORT: usize = 1 << 20;

/// Like [`computed`], for work on this many bytes; short work runs directly.
pub(super) fn computed_of<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes <= SHORT { work() } else { computed(work) }
}

/// Runs a computation, which a tenant's request or image can make long, on the current thread; other tasks of the
/// thread move to another one. It takes a few clock ticks per megabyte. What can be moved away belongs in [`blocking`].
pub(super) fn computed<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
