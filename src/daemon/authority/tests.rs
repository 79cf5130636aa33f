use std::convert::Infallible;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// HPACK's code for characters with up to 15 bits, in the code's order.
const CODE: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

/// Encodes a text with the Huffman code.
fn coded(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for wanted in text.chars() {
        let (mut first, mut length) = (0_usize, 0);
        for (next, symbols) in CODE {
            first <<= next - length;
            length = next;
            if let Some(place) = symbols.find(wanted) {
                bits += &format!("{:0width$b}", first + place, width = length as usize);
            }
            first += symbols.len();
        }
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    (0..bits.len()).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap()).collect()
}

/// How a client encodes its authority.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// The first byte: whether the name is an index or literal, and whether the field is added to the dynamic table.
    first: u8,
    coded: bool,
    coded_name: bool,
}

fn string(text: &str, is_coded: bool) -> Vec<u8> {
    let bytes = if is_coded { coded(text) } else { text.as_bytes().to_vec() };
    assert!(bytes.len() < 127);
    let mut all = vec![u8::try_from(bytes.len()).unwrap() | if is_coded { 0x80 } else { 0 }];
    all.extend(bytes);
    all
}

fn authority(text: &str, form: Form) -> Vec<u8> {
    let mut field = vec![form.first];
    if form.first & 0xf == 0 {
        field.extend(string(":authority", form.coded_name));
    }
    field.extend(string(text, form.coded));
    field
}

/// `POST http /`, from the static table.
const REQUEST: [u8; 3] = [0x83, 0x86, 0x84];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// Sends bytes in pieces to an h2 server. Returns the authority and the header `x` of each of the expected number of
/// requests.
async fn serve(bytes: Vec<u8>, piece: usize, number: usize) -> Vec<(Option<String>, Option<String>)> {
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let (told, mut heard) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let authority = request.uri().authority().map(ToString::to_string);
        told.send((authority, request.headers().get("x").map(text))).unwrap();
        async { Ok::<_, Infallible>(http::Response::new(String::new())) }
    });
    let io = TokioIo::new(AnyAuthority::<DuplexStream>::of(server, None));
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
    let mut requests = Vec::new();
    let asking = async {
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        for piece in bytes.chunks(piece) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        while requests.len() < number {
            let request = timeout(SOON, heard.recv()).await;
            requests.push(request.expect("h2 takes the request").unwrap());
        }
    };
    tokio::select! {
        ended = serving => panic!("{ended:?}"),
        () = asking => {}
    }
    requests
}

fn served(bytes: Vec<u8>, piece: usize, number: usize) -> Vec<(Option<String>, Option<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(serve(bytes, piece, number))
}

fn form() -> impl Strategy<Value = Form> {
    let first = prop::sample::select(vec![0x41_u8, 0x40, 0x01, 0x00, 0x11, 0x10]);
    (first, any::<bool>(), any::<bool>()).prop_map(|(first, coded, coded_name)| Form { first, coded, coded_name })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Sends two requests. The second refers to entries that the first has added to HPACK's dynamic table.
    #[test]
    fn r1_any_authority_is_answered_and_headers_stay_what_they_are(
        text in "[ -;=?A-Z_a-z/%]{1,60}",
        form in form(),
        piece in 1..60_usize,
        cut in 0..8_usize,
        padding in 0..9_u8,
    ) {
        let mut first = REQUEST.to_vec();
        first.extend(authority(&text, form));
        first.extend([0x40, 1, b'x', 3, b'o', b'n', b'e']);
        let mut padded = vec![padding, 0, 0, 0, 0, 1];
        padded.extend(&first[..cut]);
        padded.extend(vec![0; padding.into()]);
        let mut bytes = frame(1, 0x1 | 0x8 | 0x20, 1, &padded);
        bytes.extend(frame(9, 0x4, 1, &first[cut..]));
        // The newest entry of the dynamic table, and the one before it.
        let is_indexed = form.first & 0x40 != 0;
        let second: &[u8] = if is_indexed { &[0x83, 0x86, 0x84, 0xbf, 0xbe] } else { &[0x83, 0x86, 0x84, 0xbe] };
        bytes.extend(frame(1, 0x5, 3, second));
        let requests = served(bytes, piece, 2);
        let one = Some("one".to_owned());
        prop_assert!(requests.iter().all(|request| request.1 == one), "{:?}", requests);
        let name = requests[0].0.clone().unwrap();
        prop_assert_eq!(name.len(), text.len());
        prop_assert_eq!(&requests[1].0, &is_indexed.then_some(name));
    }

    /// For any bytes in any pieces: none is added, lost, or still held at the end.
    #[test]
    fn any_bytes_come_through_in_their_number(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        frames in prop::collection::vec((0..12_u8, any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..6),
        piece in 1..40_usize,
    ) {
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, flags, payload) in frames {
            sent.extend(frame(kind, flags, 1, &payload));
        }
        sent.extend(bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let came = runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(piece);
            let mut server = AnyAuthority::<DuplexStream>::of(server, None);
            let mut came = Vec::new();
            let sending = async {
                client.write_all(&sent).await.unwrap();
                drop(client);
            };
            let (_, read) = tokio::join!(sending, server.read_to_end(&mut came));
            read.unwrap();
            came
        });
        prop_assert_eq!(came.len(), sent.len());
    }
}

/// Go encodes an empty authority as an indexed field of the static table.
#[test]
fn r1_an_empty_authority_of_the_static_table_is_none() {
    let bytes = |block: &[u8]| frame(1, 0x5, 1, block);
    assert_eq!(served(bytes(&[0x83, 0x86, 0x84, 0x81, 0x40, 1, b'x', 1, b'y']), 7, 1), [(None, Some("y".to_owned()))]);
    assert_eq!(served(bytes(&[0x81, 0x83, 0x86, 0x84]), 100, 1), [(None, None)]);
}

#[test]
fn an_authority_that_cannot_be_overwritten_is_reported() {
    let fails = |field: &[u8]| {
        let mut bytes = vec![0; 24];
        bytes.extend(frame(1, 0x5, 1, &[&REQUEST, field].concat()));
        Frames::default().rewrite(&mut bytes).failed
    };
    assert!(fails(&[0x41, 0]));
    // One character of 28 bits.
    assert!(fails(&[0x41, 0x84, 0xff, 0xff, 0xfe, 0x2f]));
    assert!(!fails(&[0x41, 1, b'/']));
    assert!(!fails(&[0x41, 0x81, 0x63]));
}
