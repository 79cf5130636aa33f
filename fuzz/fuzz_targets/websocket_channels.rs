//! Messages of `channel.k8s.io`. The first byte chooses the codec and the number of channels.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::streaming::websocket::channels::{ClientMessage, Codec, MOST_CHANNELS};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, message)) = input.split_first() else { return };
    let codec = [Codec::Binary, Codec::BinaryWithClose, Codec::Base64][usize::from(choice % 3)];
    let channels = choice / 3 % (MOST_CHANNELS + 1);
    match codec.parse(channels, Bytes::copy_from_slice(message)) {
        Ok(ClientMessage::Data(channel, data)) => {
            assert!(channel < channels && data.len() < message.len());
            let written = codec.write(channel, &data);
            assert_eq!(codec.parse(channels, written), Ok(ClientMessage::Data(channel, data)));
        }
        Ok(ClientMessage::Close(channel)) => assert!(codec == Codec::BinaryWithClose && channel < channels),
        Ok(ClientMessage::Ignored) | Err(_) => {}
    }
});
