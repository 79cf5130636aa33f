//! How much is read at once of what a client waits for.

use bytes::BytesMut;

/// At first, and for whoever types: no more comes at once.
const LEAST: usize = 16 * 1024;
/// For bulk: what a FIFO of ours holds, and a frame of SPDY. Each read costs a wakeup, two system calls and a frame, on both sides.
const MOST: usize = 256 * 1024;

/// Room for one read. It doubles when it was filled.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(LEAST)
    }
}

impl Room {
    /// Makes it in a buffer that is empty.
    pub(super) fn make(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.0);
    }

    /// So much was read.
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
