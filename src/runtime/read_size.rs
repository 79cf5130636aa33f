//! How many bytes are read at once of data that a client waits for.

use bytes::BytesMut;

/// The first size, which is also enough for typed input: that comes in small pieces.
const INITIAL: usize = 16 * 1024;
/// The size for bulk data: the capacity of our FIFOs, and of a SPDY frame. Each read costs a wakeup, two system calls
/// and a frame, on both sides.
const BULK: usize = 256 * 1024;

/// The size of the next read. It doubles when a read has filled it.
#[derive(Debug)]
pub(super) struct ReadSize(usize);

impl Default for ReadSize {
    fn default() -> Self {
        Self(INITIAL)
    }
}

impl ReadSize {
    /// Reserves this size in an empty buffer.
    pub(super) fn reserve(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.0);
    }

    /// Must be called with the size of each read.
    pub(super) fn adapt_to(&mut self, count: usize) {
        if count >= self.0 {
            self.0 = (self.0 * 2).min(BULK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_the_room_is_bulk() {
        let (mut size, mut buffer) = (ReadSize::default(), BytesMut::new());
        for (count, wanted) in
            [(1, INITIAL), (INITIAL - 1, INITIAL), (INITIAL, 2 * INITIAL), (5, 2 * INITIAL), (2 * INITIAL, 4 * INITIAL)]
        {
            size.adapt_to(count);
            size.reserve(&mut buffer);
            assert!(buffer.capacity() >= wanted && size.0 == wanted, "{size:?} after {count}");
        }
        for _ in 0..10 {
            size.adapt_to(BULK);
        }
        assert_eq!(size.0, BULK);
    }
}
