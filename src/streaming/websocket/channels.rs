//! The framing of `channel.k8s.io`: a WebSocket message is one byte that names the channel, followed by the channel's
//! data. No I/O.
//!
//! In the base64 forms, channel `n` is the character `'0' + n`, and the data is base64. In v5, a client's message of
//! the byte 255 and a channel closes that channel.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

/// Maximum number of channels in a session. Up to this number, each channel is a printable character in the base64
/// forms.
pub const MOST_CHANNELS: u8 = 64;
/// First byte of v5's close message.
const CLOSE: u8 = 255;

/// The encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// The channel as a byte, then the data.
    Binary,
    /// As `Binary`, and the client may close a channel (v5).
    BinaryWithClose,
    /// The channel as a character, then the data in base64.
    Base64,
}

/// The content of a client's message.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Data for a channel.
    Data(u8, Bytes),
    /// The client sends no more data in this channel.
    Close(u8),
    /// An empty message, or one for a channel that the session does not have.
    Ignored,
}

/// A message that no client of the protocol sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The close message does not have two bytes, or names a channel that the session does not have.
    #[error("a close that names no channel")]
    Close,
    #[error("a message that is not base64")]
    Base64,
}

impl Codec {
    /// Parses a client's message in a session that has this many channels.
    ///
    /// # Errors
    /// [`Invalid`] if the session cannot go on, because data that the client meant to send would be lost.
    pub fn parse(self, channels: u8, message: Bytes) -> Result<ClientMessage, Invalid> {
        let Some(&first) = message.first() else { return Ok(ClientMessage::Ignored) };
        if self == Self::BinaryWithClose && first == CLOSE {
            return match message[1..] {
                [channel] if channel < channels => Ok(ClientMessage::Close(channel)),
                _ => Err(Invalid::Close),
            };
        }
        let channel = if self == Self::Base64 { first.wrapping_sub(b'0') } else { first };
        if channel >= channels {
            // Ignored without an error, as in kubelet's server: the client of a later version may have more channels.
            return Ok(ClientMessage::Ignored);
        }
        let data = match self {
            Self::Binary | Self::BinaryWithClose => message.slice(1..),
            Self::Base64 => STANDARD.decode(&message[1..]).map_err(|_| Invalid::Base64)?.into(),
        };
        Ok(ClientMessage::Data(channel, data))
    }

    /// Encodes a message for a channel below [`MOST_CHANNELS`].
    #[must_use]
    pub fn write(self, channel: u8, data: &[u8]) -> Bytes {
        match self {
            Self::Binary | Self::BinaryWithClose => {
                let mut message = BytesMut::with_capacity(1 + data.len());
                message.put_u8(channel);
                message.put_slice(data);
                message.freeze()
            }
            Self::Base64 => {
                let mut message = String::with_capacity(1 + data.len().div_ceil(3) * 4);
                message.push(char::from(b'0' + channel));
                STANDARD.encode_string(data, &mut message);
                message.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(codec: Codec, message: &'static [u8]) -> Result<ClientMessage, Invalid> {
        codec.parse(5, Bytes::from_static(message))
    }

    #[test]
    fn a_message_is_a_channel_and_its_bytes() {
        for codec in [Codec::Binary, Codec::BinaryWithClose] {
            assert_eq!(parse(codec, b"\x00foo\n"), Ok(ClientMessage::Data(0, "foo\n".into())));
            assert_eq!(parse(codec, b"\x04"), Ok(ClientMessage::Data(4, Bytes::new())));
            assert_eq!(&codec.write(1, b"out")[..], b"\x01out");
        }
        assert_eq!(parse(Codec::Base64, b"0Zm9vCg=="), Ok(ClientMessage::Data(0, "foo\n".into())));
        assert_eq!(&Codec::Base64.write(1, b"\n")[..], b"1Cg==");
        assert_eq!(&Codec::Base64.write(1, b"")[..], b"1");
    }

    #[test]
    fn only_v5_closes_a_channel() {
        assert_eq!(parse(Codec::BinaryWithClose, b"\xff\x00"), Ok(ClientMessage::Close(0)));
        assert_eq!(parse(Codec::Binary, b"\xff\x00"), Ok(ClientMessage::Ignored));
        for wrong in [b"\xff".as_slice(), b"\xff\x05", b"\xff\x00\x00"] {
            assert_eq!(parse(Codec::BinaryWithClose, wrong), Err(Invalid::Close), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_for_no_channel_is_left_out() {
        for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
            assert_eq!(parse(codec, b""), Ok(ClientMessage::Ignored));
            assert_eq!(parse(codec, b"\x7fx"), Ok(ClientMessage::Ignored));
        }
        assert_eq!(parse(Codec::Base64, b"5Zm9v"), Ok(ClientMessage::Ignored));
    }

    #[test]
    fn what_would_be_lost_is_an_error() {
        assert_eq!(parse(Codec::Base64, b"0not base64"), Err(Invalid::Base64));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in 0..MOST_CHANNELS, data: Vec<u8>) {
            for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
                let parsed = codec.parse(MOST_CHANNELS, codec.write(channel, &data));
                prop_assert_eq!(parsed, Ok(ClientMessage::Data(channel, data.clone().into())));
            }
        }

        #[test]
        fn no_message_is_a_panic_or_grows(channels: u8, message: Vec<u8>) {
            for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
                if let Ok(ClientMessage::Data(channel, data)) = codec.parse(channels, message.clone().into()) {
                    prop_assert!(channel < channels && data.len() < message.len());
                }
            }
        }
    }
}
