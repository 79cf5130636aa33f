//! Malicious clients: none may make memory grow, hang a session that others could use, or cause a panic.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::super::session::Session;
use super::client::{self, Client, FIN, Got};
use super::life;

fn session(most: usize) -> (Client, Session) {
    let (client, io) = Client::new(64 * 1024);
    (client, Session::start(io, most, &life(Duration::MAX)))
}

/// Asserts that these frames end the session with GOAWAY and a protocol error.
async fn assert_thrown_out(frames: &[u8]) {
    let (mut client, session) = session(8);
    client.send(frames).await;
    let out = tokio::time::timeout(Duration::from_secs(10), session.gone().cancelled_owned()).await;
    assert!(out.is_ok(), "the rest of {} bytes is waited for", frames.len());
    let ((), rest) = tokio::join!(session.close(), client.rest());
    assert!(rest.iter().any(|got| matches!(got, Got::GoAway(_, 1))), "{rest:?}");
}

/// The start of a control frame that announces this length.
fn head(kind: u16, length: u32) -> Vec<u8> {
    let mut head = [0x8003_u16.to_be_bytes(), kind.to_be_bytes()].concat();
    head.extend((length & 0xff_ffff).to_be_bytes());
    head
}

/// moby/spdystream before 0.5.1 allocated as many SETTINGS, headers and header bytes, and as large a frame, as a frame
/// announced: a few bytes made the server allocate gigabytes.
#[tokio::test(start_paused = true)]
async fn cve_2026_35469_sizes_in_frames_are_not_believed() {
    for kind in [client::OPEN, client::REPLY, client::HEADERS, client::SETTINGS, client::PING] {
        // Rejected at once, without waiting for the rest of the frame.
        assert_thrown_out(&head(kind, 0xff_ffff)).await;
    }
    assert_thrown_out(&client::numbers(client::SETTINGS, &[0x7fff_ffff, 1, 1])).await;
    assert_thrown_out(&client::numbers(client::SETTINGS, &[0x8000_0000])).await;
    let huge = [0x7f, 0xff, 0xff, 0xff];
    let one = [0, 0, 0, 1];
    for block in [
        // In turn: the number of pairs, the length of a name, the length of a value.
        huge.to_vec(),
        [one, huge].concat(),
        [&one[..], &one, b"n", &huge].concat(),
    ] {
        assert_thrown_out(&client::Encoder::new().open_plain(1, 0, &block)).await;
        let mut encoder = client::Encoder::new();
        let headers = client::control(client::HEADERS, 0, &[&one[..], &encoder.block(&block)].concat());
        assert_thrown_out(&headers).await;
    }
    // 8 MiB of zeros, compressed to 8 KiB.
    assert_thrown_out(&client::Encoder::new().open_plain(1, 0, &vec![0; 8 * 1024 * 1024])).await;
}

#[tokio::test(start_paused = true)]
async fn stream_ids_neither_repeat_nor_go_back() {
    for second in [3, 1, 2, 4] {
        let mut encoder = client::Encoder::new();
        let frames = [encoder.open(3, 0, &[]), encoder.open(second, 0, &[])].concat();
        assert_thrown_out(&frames).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_frame_is_waited_for_and_ends_with_the_connection() {
    let whole = client::Encoder::new().open(1, 0, &[("streamtype", "error")]);
    for length in 1..whole.len() {
        let (mut client, mut session) = session(8);
        client.send(&whole[..length]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!session.gone().is_cancelled());
        client.io.shutdown().await.unwrap();
        assert!(session.accept().await.is_none());
        assert!(session.gone().is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn data_on_an_unknown_stream_is_answered_with_one_reset() {
    let (mut client, _session) = session(8);
    for _ in 0..100 {
        client.send(&client::data(7, 0, &[1; 100])).await;
    }
    client.send(&client::data(9, FIN, &[1; 100])).await;
    assert_eq!(client.next().await, Some(Got::Reset(7, 2)));
    assert_eq!(client.next().await, Some(Got::Reset(9, 2)));
    client.silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_streams_is_refused_above_the_cap() {
    let (mut client, mut session) = session(8);
    let mut kept = Vec::new();
    for number in 0..20 {
        let id = number * 2 + 1;
        client.open(id, &[]).await;
        if number < 8 {
            kept.push(session.accept().await.unwrap().accept());
            assert_eq!(client.next().await, Some(Got::Reply(id)));
        } else {
            assert_eq!(client.next().await, Some(Got::Reset(id, 3)));
        }
    }
    // A stream that ends makes space for another one.
    client.send(&client::numbers(client::RESET, &[1, 5])).await;
    client.open(101, &[]).await;
    assert!(session.accept().await.unwrap().accept().is_some());
    assert_eq!(client.next().await, Some(Got::Reply(101)));
}

/// Sends a frame repeatedly without reading, until the server reads no more. Returns the number of bytes sent.
async fn flood(client: &mut Client, frame: &[u8], most: usize) -> usize {
    let mut taken = 0;
    while taken < most {
        match tokio::time::timeout(Duration::from_secs(1), client.io.write(frame)).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => break,
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_read_stop_the_flood_that_asks_for_them() {
    let (mut client, _session) = session(8);
    let taken = flood(&mut client, &client::numbers(client::PING, &[1]), 10_000_000).await;
    // Two pipes of 64 KiB, a read buffer, and the queue of replies.
    assert!(taken < 400_000, "{taken} bytes of pings were taken");
    let (mut client, _session) = session(8);
    let mut frames = Vec::new();
    for stream in (1..2001).step_by(2) {
        frames.extend(client::data(stream, FIN, b"x"));
    }
    let taken = flood(&mut client, &frames, 50_000_000).await;
    assert!(taken < 400_000, "{taken} bytes for unknown streams were taken");
}

#[tokio::test(start_paused = true)]
async fn floods_that_ask_for_nothing_are_read_and_forgotten() {
    let (mut client, _session) = session(8);
    let mut settings = 100_u32.to_be_bytes().to_vec();
    settings.resize(804, 1);
    for frame in [
        client::control(client::SETTINGS, 0, &settings),
        client::numbers(client::WINDOW_UPDATE, &[1, 0x7fff_ffff]),
        client::numbers(client::RESET, &[5, 1]),
        client::numbers(client::PING, &[4]),
        client::control(77, 0, &[0; 1000]),
    ] {
        for _ in 0..1000 {
            client.send(&frame).await;
        }
    }
    client.send(&client::numbers(client::PING, &[3])).await;
    assert_eq!(client.next().await, Some(Got::Ping(3)));
}

/// The bytes that wait for readers are bounded for all streams of a session together.
#[tokio::test(start_paused = true)]
async fn data_that_is_not_read_does_not_pile_up() {
    let (mut client, mut session) = session(256);
    let mut kept = Vec::new();
    let mut taken = 0_usize;
    'streams: for number in 0..256 {
        let id = number * 2 + 1;
        client.open(id, &[]).await;
        let Ok(incoming) = tokio::time::timeout(Duration::from_secs(1), session.accept()).await else { break };
        kept.push(incoming.unwrap().accept());
        let frame = client::data(id, 0, &vec![1; 60_000]);
        for _ in 0..2 {
            match tokio::time::timeout(Duration::from_secs(1), client.io.write_all(&frame)).await {
                Ok(written) => written.unwrap(),
                Err(_) => break 'streams,
            }
            taken += frame.len();
        }
    }
    // The budget, a pipe, and a read buffer.
    assert!((256_000..1_000_000).contains(&taken), "{taken} bytes were taken");
    // The session reads again as soon as the readers have gone.
    drop(kept);
    tokio::time::timeout(Duration::from_secs(1), client.io.write_all(&[0; 60_000])).await.unwrap().unwrap();
}
