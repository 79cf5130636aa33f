//! Memory in whole pages, directly from the kernel.
#![allow(unsafe_code, reason = "anonymous mappings have no safe wrapper, and BufMut is unsafe to implement")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use bytes::BufMut;
use bytes::buf::UninitSlice;

/// A buffer outside of the heap: its memory returns to the kernel as soon as it is dropped. In the heap, such buffers
/// would be interleaved with small allocations, each of which keeps a page in use when everything around it is free.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    capacity: usize,
    filled: usize,
}

// SAFETY: it is the only owner of the mapping, and hands out references as a Vec does.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Allocates `capacity` bytes, which must be a multiple of the page size.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the kernel chooses; it overlaps nothing.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), capacity, access, kind, -1, 0) };
        match NonNull::new(mapped.cast()) {
            Some(start) if mapped != libc::MAP_FAILED => Self { start, capacity, filled: 0 },
            // As with a Vec, the process ends when there is no memory.
            _ => handle_alloc_error(Layout::array::<u8>(capacity).unwrap_or(Layout::new::<u8>())),
        }
    }

    /// Discards all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.filled = self.filled.min(count);
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping belongs to `self` until it is dropped; its first `filled` bytes were written, and all
        // bytes were zero-initialized.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.filled) }
    }
}

// SAFETY: `chunk_mut` is the part of the mapping after `filled`, and `advance_mut` keeps `filled` within the mapping.
unsafe impl BufMut for Pages {
    fn remaining_mut(&self) -> usize {
        self.capacity - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.remaining_mut(), "more than there is room for");
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let rest = self.remaining_mut();
        // SAFETY: `filled` is at most `capacity`; the rest of the mapping belongs to `self` and is borrowed as long as
        // `self`.
        unsafe { UninitSlice::from_raw_parts_mut(self.start.as_ptr().add(self.filled), rest) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this unmaps exactly our own mapping, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.capacity) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_more_fits_than_there_is_room() {
        let mut pages = Pages::new(8192);
        assert!(pages.as_ref().is_empty());
        pages.put_slice(&[7; 8000]);
        assert_eq!((pages.as_ref(), pages.remaining_mut()), (&[7; 8000][..], 192));
        pages.truncate(9000);
        pages.truncate(3);
        assert_eq!(pages.as_ref(), [7; 3]);
        pages.put_bytes(8, 8189);
        assert!(!pages.has_remaining_mut());
        let bytes = pages.as_ref();
        assert_eq!((bytes.len(), bytes[2], bytes[3]), (8192, 7, 8));
    }

    #[test]
    #[should_panic(expected = "room")]
    fn more_than_there_is_room_for_is_not_taken() {
        // SAFETY: it panics before any byte counts as written.
        unsafe { Pages::new(4096).advance_mut(4097) };
    }

    #[test]
    fn it_is_the_kernels_again_when_it_is_dropped() {
        let maps = |address: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().any(|line| {
                let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
                let at = |text| usize::from_str_radix(text, 16).unwrap();
                (at(from)..at(to)).contains(&address)
            })
        };
        // So large that no mapping of another test is likely to cover the middle, where the test looks, after the drop.
        let pages = Pages::new(1 << 34);
        let middle = pages.start.as_ptr() as usize + (1 << 33);
        assert!(maps(middle));
        drop(pages);
        assert!(!maps(middle));
    }
}
