//! Settings of glibc's heap.
#![allow(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper in nix or rustix")]

/// Limits the heap to one arena, so that memory freed by one thread can be reused by another. By default glibc assigns
/// up to eight arenas per core to threads. tokio's blocking threads come and go, and each arena keeps the memory it
/// once held, so the same work takes more memory every time it is repeated. With two arenas, the second one varied by
/// up to 100 KiB after each busy period, because [`trim`] only shrinks the first arena.
pub fn share_one_arena() {
    // SAFETY: called before any other thread exists; mallopt only sets a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Returns unused whole pages to the kernel. Takes a few milliseconds for a heap of some megabytes.
pub fn trim() {
    // SAFETY: malloc_trim locks each arena as malloc does, and only releases memory that is free already.
    unsafe { libc::malloc_trim(0) };
}
