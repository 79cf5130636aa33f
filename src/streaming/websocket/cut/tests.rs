use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::io::duplex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::{Message as Whole, Role, WebSocketConfig};

use super::*;

/// A message of a client.
#[derive(Clone, Debug)]
struct Sent {
    channel: u8,
    data: Vec<u8>,
    /// The lengths of all frames of the message but the last, which has the rest.
    frames: Vec<usize>,
}

fn frame(payload: &[u8], opcode: Data, is_final: bool) -> Whole {
    Whole::Frame(Frame::message(payload.to_vec(), OpCode::Data(opcode), is_final))
}

/// Sends messages, with pings between their frames, and returns the messages that the library delivers.
async fn through(has_channels: bool, opcode: Data, sent: &[Sent]) -> Vec<Bytes> {
    let (near, far) = duplex(1000);
    let longest = Some(LONGEST + 1);
    let config = WebSocketConfig::default().max_message_size(longest).max_frame_size(longest);
    let mut server =
        WebSocketStream::from_raw_socket(MessageSplitter::new(near, has_channels), Role::Server, Some(config)).await;
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let send = async {
        for one in sent {
            let message = [&[one.channel][..], &one.data].concat();
            let (mut rest, mut opcode) = (&message[..], opcode);
            for length in &one.frames {
                let (head, tail) = rest.split_at((*length).min(rest.len()));
                client.feed(frame(head, opcode, false)).await.unwrap();
                client.feed(Whole::Ping(Bytes::from_static(b"ping"))).await.unwrap();
                (rest, opcode) = (tail, Data::Continue);
            }
            client.send(frame(rest, opcode, true)).await.unwrap();
        }
        client.close(None).await.unwrap();
        while let Some(Ok(_)) = client.next().await {}
    };
    // Dropped at its end together with the server, whose close the client waits for.
    let receive = async move {
        let mut all = Vec::new();
        while let Some(message) = server.next().await {
            match message.unwrap() {
                Whole::Binary(message) => all.push(message),
                Whole::Text(message) => all.push(message.into()),
                _ => {}
            }
        }
        all
    };
    tokio::join!(send, receive).1
}

fn sent() -> impl Strategy<Value = Sent> {
    let length = prop_oneof![0..10_usize, LONGEST - 5..LONGEST + 5, 0..4 * LONGEST];
    let frames = proptest::collection::vec(prop_oneof![Just(0), 0..10_usize, 0..2 * LONGEST], 0..4);
    (0..5_u8, length, frames).prop_map(|(channel, length, frames)| Sent {
        channel,
        data: (0..=250).cycle().skip(channel.into()).take(length).collect(),
        frames,
    })
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn t10_what_was_sent_comes_in_parts_of_its_channel(messages in proptest::collection::vec(sent(), 1..4)) {
        let mut came = blocking(through(true, Data::Binary, &messages)).into_iter();
        for one in &messages {
            let mut data = Vec::new();
            loop {
                let part = came.next().expect("a part of it");
                prop_assert_eq!(part[0], one.channel);
                data.extend_from_slice(&part[1..]);
                if data.len() >= one.data.len() {
                    break;
                }
                prop_assert_eq!(part.len(), LONGEST + 1);
            }
            prop_assert!(data == one.data, "{} bytes of {}", data.len(), one.data.len());
        }
        prop_assert!(came.next().is_none());
    }

    #[test]
    fn t10_bytes_without_channels_come_as_they_are(messages in proptest::collection::vec(sent(), 1..4)) {
        let came = blocking(through(false, Data::Binary, &messages)).concat();
        let sent: Vec<u8> = messages.iter().flat_map(|one| [&[one.channel][..], &one.data].concat()).collect();
        prop_assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
    }
}

#[test]
fn t10_a_part_in_base64_is_of_whole_groups() {
    let data = vec![b'A'; 2 * LONGEST + 8];
    let came = blocking(through(true, Data::Text, &[Sent { channel: b'0', data, frames: vec![7, LONGEST] }]));
    assert_eq!(came.iter().map(Bytes::len).collect::<Vec<_>>(), [LONGEST + 1, LONGEST + 1, 9]);
}

#[tokio::test]
async fn t10_a_message_within_another_is_an_error() {
    let (near, far) = duplex(1000);
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let mut server = WebSocketStream::from_raw_socket(MessageSplitter::new(near, true), Role::Server, None).await;
    client.send(frame(b"\0a", Data::Binary, false)).await.unwrap();
    client.send(frame(b"\0b", Data::Binary, true)).await.unwrap();
    assert!(server.next().await.unwrap().is_err());
}
