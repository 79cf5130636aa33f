//! How many bytes are read at once of data that a client waits for.

use bytes::BytesMut;

/// The first size, which is also enough for typed input: that comes in small pieces.
const LEAST: usize = 16 * 1024;
/// The size for bulk data: the capacity of our FIFOs, and of a SPDY frame. Each read costs a wakeup, two system calls
/// and a frame, on both sides.
const MOST: usize = 256 * 1024;

/// The size of the next read. It doubles when a read has filled it.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(LEAST)
    }
}

impl Room {
    /// Reserves this size in an empty buffer.
    pub(super) fn make(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.0);
    }

    /// Must be called with the size of each read.
    pub(super) fn filled(&mut self, count: usize) {
        if count >= self.0 {
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_the_room_is_bulk() {
        let (mut room, mut buffer) = (Room::default(), BytesMut::new());
        for (count, wanted) in
            [(1, LEAST), (LEAST - 1, LEAST), (LEAST, 2 * LEAST), (5, 2 * LEAST), (2 * LEAST, 4 * LEAST)]
        {
            room.filled(count);
            room.make(&mut buffer);
            assert!(buffer.capacity() >= wanted && room.0 == wanted, "{room:?} after {count}");
        }
        for _ in 0..10 {
            room.filled(MOST);
        }
        assert_eq!(room.0, MOST);
    }
}
