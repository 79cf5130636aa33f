//! glibc's heap.
#![allow(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper in nix or rustix")]

/// Keeps freed memory where other threads find it again. By default glibc gives up to eight arenas a core to
/// threads as they come, and the blocking ones of tokio come and go: each keeps what it once held, so that
/// the same work takes more memory every time it is repeated. With two, the second had up to 100 KiB more or
/// less after each busy time, as it happened: of all arenas, [`give_back`] shortens the first alone.
pub fn share_one_arena() {
    // SAFETY: called before any other thread is there; mallopt only sets a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives the kernel back whole pages that nothing uses. Takes a few milliseconds for a heap of some megabytes.
pub fn give_back() {
    // SAFETY: malloc_trim locks each arena as malloc does, and frees only what is free already.
    unsafe { libc::malloc_trim(0) };
}
