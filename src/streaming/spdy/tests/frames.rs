use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::super::ProtocolError;
use super::super::dictionary::{DICTIONARY, ID};
use super::super::frame::{Frame, LARGEST_CONTROL, Parser};
use super::super::headers::{LARGEST_BLOCK, LONGEST_NAME, LONGEST_VALUE, MOST_PAIRS};
use super::client::{self, Encoder, FIN};

/// The meaning of a frame that a client sends.
#[derive(Clone, Debug)]
enum Meant {
    Open { stream: u32, fin: bool, headers: Vec<(String, String)> },
    Headers { stream: u32, fin: bool, headers: Vec<(String, String)> },
    Reset { stream: u32 },
    Settings { entries: u8 },
    Ping(u32),
    GoAway,
    WindowUpdate,
    Unknown { kind: u16, length: usize },
    Data { stream: u32, fin: bool, bytes: Vec<u8> },
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::btree_map("[a-z-]{1,12}", "[ -~]{0,40}", 0..5).prop_map(|map| map.into_iter().collect())
}

fn meant() -> impl Strategy<Value = Meant> {
    let stream = 1..0x7fff_ffff_u32;
    prop_oneof![
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Meant::Open {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Meant::Headers {
            stream,
            fin,
            headers
        }),
        stream.clone().prop_map(|stream| Meant::Reset { stream }),
        (0..9_u8).prop_map(|entries| Meant::Settings { entries }),
        any::<u32>().prop_map(Meant::Ping),
        Just(Meant::GoAway),
        Just(Meant::WindowUpdate),
        (10..u16::MAX, 0..300_usize).prop_map(|(kind, length)| Meant::Unknown { kind, length }),
        (stream, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(stream, fin, bytes)| Meant::Data { stream, fin, bytes }),
    ]
}

fn encode(encoder: &mut Encoder, meant: &Meant) -> Vec<u8> {
    let pairs =
        |headers: &'_ [(String, String)]| headers.iter().map(|(a, b)| (a.clone(), b.clone())).collect::<Vec<_>>();
    match meant {
        Meant::Open { stream, fin, headers } => {
            let pairs = pairs(headers);
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            encoder.open(*stream, u8::from(*fin), &pairs)
        }
        Meant::Headers { stream, fin, headers } => {
            let pairs = pairs(headers);
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            encoder.headers(client::HEADERS, *stream, u8::from(*fin), &pairs)
        }
        Meant::Reset { stream } => client::numbers(client::RESET, &[*stream, 5]),
        Meant::Settings { entries } => {
            let mut payload = u32::from(*entries).to_be_bytes().to_vec();
            payload.resize(4 + 8 * usize::from(*entries), 0);
            client::control(client::SETTINGS, 0, &payload)
        }
        Meant::Ping(number) => client::numbers(client::PING, &[*number]),
        Meant::GoAway => client::numbers(client::GO_AWAY, &[0, 0]),
        Meant::WindowUpdate => client::numbers(client::WINDOW_UPDATE, &[1, 1000]),
        Meant::Unknown { kind, length } => client::control(*kind, 0, &vec![7; *length]),
        Meant::Data { stream, fin, bytes } => client::data(*stream, u8::from(*fin), bytes),
    }
}

/// Asserts that the frames read are those that were meant, after joining pieces of data.
fn assert_meant(read: Vec<Frame>, meant: &[Meant]) {
    let mut read = read.into_iter();
    for meant in meant {
        match meant {
            Meant::Open { stream, fin, headers } => {
                let Some(Frame::Open { stream: id, headers: got, fin: ended, unidirectional }) = read.next() else {
                    panic!("no SYN_STREAM");
                };
                assert_eq!((id.get(), ended, unidirectional), (*stream, *fin, false));
                for (name, value) in headers {
                    assert_eq!(got.get(name), Some(value.as_str()));
                }
                assert_eq!(got.get("0"), None);
            }
            Meant::Headers { stream, fin, .. } => match read.next() {
                Some(Frame::Headers { stream: id, fin: ended }) => assert_eq!((id.get(), ended), (*stream, *fin)),
                other => panic!("{other:?}, not HEADERS"),
            },
            Meant::Reset { stream } => match read.next() {
                Some(Frame::Reset { stream: id }) => assert_eq!(id.get(), *stream),
                other => panic!("{other:?}, not RST_STREAM"),
            },
            Meant::Ping(number) => assert_eq!(read.next(), Some(Frame::Ping(*number))),
            Meant::GoAway => assert_eq!(read.next(), Some(Frame::GoAway)),
            Meant::Settings { .. } | Meant::WindowUpdate => assert_eq!(read.next(), Some(Frame::Ignored)),
            Meant::Unknown { .. } => {}
            Meant::Data { stream, fin, bytes } => {
                let mut got = Vec::new();
                loop {
                    let Some(Frame::Data { stream: id, piece, fin: ended }) = read.next() else { panic!("no data") };
                    assert_eq!(id.get(), *stream);
                    got.extend_from_slice(&piece);
                    if got.len() >= bytes.len() {
                        assert_eq!(ended, *fin);
                        break;
                    }
                    assert!(!ended, "only the last piece ends a stream");
                }
                assert_eq!(&got, bytes);
            }
        }
    }
    assert_eq!(read.next(), None);
}

/// Parses bytes that arrive in steps.
fn parse(bytes: &[u8], mut steps: impl Iterator<Item = usize>) -> Result<Vec<Frame>, ProtocolError> {
    let (mut parser, mut input, mut read) = (Parser::default(), BytesMut::new(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (step, later) = rest.split_at(steps.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        rest = later;
        input.put_slice(step);
        while let Some(frame) = parser.next(&mut input)? {
            read.push(frame);
        }
    }
    Ok(read)
}

fn parse_all(bytes: &[u8]) -> Result<Vec<Frame>, ProtocolError> {
    parse(bytes, std::iter::empty())
}

fn open(plain: &[u8]) -> Result<Vec<Frame>, ProtocolError> {
    parse_all(&Encoder::new().open_plain(1, 0, plain))
}

proptest! {
    #[test]
    fn any_frames_in_any_steps_are_read_as_they_were_meant(
        meant in proptest::collection::vec(meant(), 0..20),
        steps in proptest::collection::vec(1..600_usize, 1..50),
    ) {
        let mut encoder = Encoder::new();
        let bytes: Vec<u8> = meant.iter().flat_map(|meant| encode(&mut encoder, meant)).collect();
        let read = parse(&bytes, steps.into_iter().cycle()).unwrap();
        assert_meant(read, &meant);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4000), step in 1..100_usize) {
        let _ = parse(&bytes, std::iter::repeat(step));
    }

    #[test]
    fn a_flipped_bit_is_frames_or_an_error(at in any::<proptest::sample::Index>(), bit in 0..8_u8) {
        let mut encoder = Encoder::new();
        let mut bytes = encoder.open(1, 0, &[("streamtype", "error")]);
        bytes.extend(encoder.open(3, FIN, &[("streamtype", "stdin")]));
        bytes.extend(client::data(3, FIN, b"hello"));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = parse_all(&bytes);
    }
}

#[test]
fn the_dictionary_is_the_specifications() {
    assert_eq!(DICTIONARY.len(), 1423);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in DICTIONARY.iter() {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!((b << 16 | a).to_be_bytes(), ID, "its Adler-32");
}

#[test]
fn data_is_passed_on_before_its_frame_is_complete() {
    let (mut parser, mut input) = (Parser::default(), BytesMut::new());
    input.put_slice(&[0, 0, 0, 1, FIN, 0xff, 0xff, 0xff]);
    assert_eq!(parser.next(&mut input), Ok(None));
    input.put_slice(b"abc");
    let Ok(Some(Frame::Data { piece, fin, .. })) = parser.next(&mut input) else { panic!("no data") };
    assert_eq!((piece, fin), (Bytes::from_static(b"abc"), false));
    assert!(input.is_empty(), "nothing is kept");
}

#[test]
fn limits_of_frames() {
    let long = u32::try_from(LARGEST_CONTROL + 1).unwrap();
    for kind in [client::OPEN, client::REPLY, client::SETTINGS, client::PING, client::HEADERS, client::GO_AWAY] {
        let mut head = [0x8003_u16.to_be_bytes(), kind.to_be_bytes()].concat();
        head.extend(long.to_be_bytes());
        // Rejected on its first eight bytes.
        assert_eq!(parse_all(&head), Err(ProtocolError::TooLong("control frame")), "type {kind}");
    }
    assert_eq!(parse_all(&[0x80, 2, 0, 6, 0, 0, 0, 4]), Err(ProtocolError::Version(2)));
    assert_eq!(parse_all(&client::data(0, 0, b"x")), Err(ProtocolError::Malformed("stream id")));
    assert_eq!(parse_all(&client::numbers(client::RESET, &[0, 5])), Err(ProtocolError::Malformed("stream id")));
    for (kind, length) in [(client::RESET, 1), (client::PING, 0), (client::GO_AWAY, 1), (client::WINDOW_UPDATE, 1)] {
        let too_short = client::numbers(kind, &vec![1; length]);
        assert_eq!(parse_all(&too_short), Err(ProtocolError::Malformed("control frame")), "type {kind}");
        let too_long = client::numbers(kind, &vec![1; length + 2]);
        assert_eq!(parse_all(&too_long), Err(ProtocolError::Malformed("control frame")), "type {kind}");
    }
    let settings = client::numbers(client::SETTINGS, &[u32::MAX, 1, 1]);
    assert_eq!(parse_all(&settings), Err(ProtocolError::Malformed("SETTINGS")));
}

#[test]
fn limits_of_headers() {
    let name = "n".repeat(LONGEST_NAME);
    let value = "v".repeat(LONGEST_VALUE);
    open(&client::plain(&[(&name, &value)])).unwrap();
    let long_name = client::plain(&[(&format!("{name}n"), "")]);
    assert_eq!(open(&long_name), Err(ProtocolError::TooLong("header")));
    let long_value = client::plain(&[("n", &format!("{value}v"))]);
    assert_eq!(open(&long_value), Err(ProtocolError::TooLong("header")));
    let names: Vec<String> = (0..=MOST_PAIRS).map(|number| number.to_string()).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    open(&client::plain(&pairs[..MOST_PAIRS])).unwrap();
    assert_eq!(open(&client::plain(&pairs)), Err(ProtocolError::TooLong("list of headers")));
    for (block, why) in [
        (client::plain(&[("Name", "")]), "header name"),
        (client::plain(&[("", "")]), "header name"),
        (client::plain(&[("twice", ""), ("twice", "")]), "header name"),
        (vec![0, 0, 0, 1, 0, 0, 0, 9, b'x'], "header block"),
        (vec![0, 0, 0, 0, 0], "header block"),
        (vec![0, 0, 0], "header block"),
        (vec![0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], "header"),
    ] {
        assert_eq!(open(&block), Err(ProtocolError::Malformed(why)));
    }
    assert_eq!(open(&[0xff, 0xff, 0xff, 0xff]), Err(ProtocolError::TooLong("list of headers")));
    assert_eq!(open(&[0, 0, 0, 1, 0x80, 0, 0, 0]), Err(ProtocolError::TooLong("header")));
}

#[test]
fn a_bomb_is_not_inflated() {
    let bomb = Encoder::new().open_plain(1, 0, &vec![0; 8 * 1024 * 1024]);
    assert!(bomb.len() < LARGEST_CONTROL, "small on the wire: {}", bomb.len());
    assert_eq!(parse_all(&bomb), Err(ProtocolError::TooLong("header block")));
    let (mut largest, pairs) = (Vec::new(), ["a", "b", "c"].map(|name| (name, "v".repeat(LONGEST_VALUE))));
    largest.extend(client::plain(&pairs.each_ref().map(|(name, value)| (*name, value.as_str()))));
    assert!(largest.len() < LARGEST_BLOCK);
    open(&largest).unwrap();
}

#[test]
fn a_block_must_be_zlib_with_the_dictionary() {
    let frame = |block: &[u8]| client::control(client::OPEN, 0, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], block].concat());
    assert_eq!(parse_all(&frame(b"")), Err(ProtocolError::Malformed("header block")));
    assert_eq!(parse_all(&frame(b"not zlib")), Err(ProtocolError::Compression));
    assert_eq!(parse_all(&frame(&[0x78, 0xbb, 1, 2, 3, 4, 0])), Err(ProtocolError::Compression));
    // A final block ends the zlib stream.
    let ended = [&[0x78, 0xbb][..], &ID, &[1, 4, 0, !4, !0, 0, 0, 0, 0], &[0, 4, 0, 1]].concat();
    assert_eq!(parse_all(&frame(&ended)), Err(ProtocolError::Compression));
    let mut truncated = Encoder::new().block(&client::plain(&[("streamtype", "error")]));
    truncated.truncate(truncated.len() / 2);
    assert!(parse_all(&frame(&truncated)).is_err());
}

#[test]
fn unknown_frames_are_skipped() {
    let mut bytes = client::control(0x0a, 0, &vec![1; 200_000]);
    bytes.extend(client::numbers(client::PING, &[7]));
    assert_eq!(parse(&bytes, std::iter::repeat(1000)), Ok(vec![Frame::Ping(7)]));
}
