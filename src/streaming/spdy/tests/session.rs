use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::super::frame::StreamId;
use super::super::session::Session;
use super::super::sink::{LARGEST_FRAME, StreamSink};
use super::client::{self, Client, FIN, Got};
use super::life;
use crate::streaming::life::SessionContext;
use crate::streaming::{Gone, Input, Sink};

const PIPE: usize = 64 * 1024;

/// A client, and a session with at most 8 streams.
fn session(pipe: usize, idle: Duration) -> (Client, Session) {
    let (client, io) = Client::new(pipe);
    (client, Session::start(io, 8, &life(idle)))
}

/// Opens and accepts a stream.
async fn stream(client: &mut Client, session: &mut Session, id: u32) -> (Input, StreamSink) {
    client.open(id, &[("streamtype", "data")]).await;
    let incoming = session.accept().await.unwrap();
    assert_eq!((incoming.id(), incoming.headers().get("streamtype")), (id, Some("data")));
    let halves = incoming.accept().unwrap();
    assert_eq!(client.next().await, Some(Got::Reply(id)));
    halves
}

#[tokio::test(start_paused = true)]
async fn a_stream_carries_data_both_ways_until_both_halves_are_closed() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (mut input, mut sink) = stream(&mut client, &mut session, 1).await;
    client.send(&client::data(1, 0, b"hello")).await;
    assert_eq!(input.recv().await.unwrap(), "hello");
    client.send(&client::data(1, FIN, b"bye")).await;
    assert_eq!(input.recv().await.unwrap(), "bye");
    assert_eq!(input.recv().await, None);
    // Our half is still open.
    sink.send(Bytes::from_static(b"so")).await.unwrap();
    sink.finish().await;
    assert_eq!(client.next().await, Some(Got::Data(1, b"so".to_vec(), false)));
    assert_eq!(client.next().await, Some(Got::Data(1, Vec::new(), true)));
    assert_eq!(sink.send(Bytes::from_static(b"more")).await, Err(Gone));
    sink.finish().await;
    drop(sink);
    client.silence().await;
    // The stream is closed on both sides.
    client.send(&client::data(1, 0, b"late")).await;
    assert_eq!(client.next().await, Some(Got::Reset(1, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_sink_closes_our_half() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (input, sink) = stream(&mut client, &mut session, 1).await;
    drop(sink);
    assert_eq!(client.next().await, Some(Got::Data(1, Vec::new(), true)));
    client.silence().await;
    // No reader is left either: the client gets a reset when it sends more.
    drop(input);
    client.silence().await;
    client.send(&client::data(1, 0, b"x")).await;
    assert_eq!(client.next().await, Some(Got::Reset(1, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_large_chunk_goes_out_in_frames_of_a_bounded_length() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (_input, mut sink) = stream(&mut client, &mut session, 1).await;
    let chunk: Vec<u8> = (0..LARGEST_FRAME * 2 + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let sent = Bytes::from(chunk.clone());
    let send = async move {
        sink.send(sent).await.unwrap();
        sink.finish().await;
    };
    let receive = async {
        let mut got = Vec::new();
        loop {
            let Some(Got::Data(1, piece, fin)) = client.next().await else { panic!("no data") };
            assert!(piece.len() <= LARGEST_FRAME);
            got.extend(piece);
            if fin {
                return got;
            }
        }
    };
    let ((), got) = tokio::join!(send, receive);
    assert_eq!(got, chunk);
}

#[tokio::test(start_paused = true)]
async fn two_sinks_send_at_once_and_frames_stay_whole() {
    let (mut client, mut session) = session(1000, Duration::MAX);
    let (_a, mut first) = stream(&mut client, &mut session, 1).await;
    let (_b, mut second) = stream(&mut client, &mut session, 3).await;
    let send_first = async move {
        for _ in 0..100 {
            first.send(vec![1; 777].into()).await.unwrap();
        }
    };
    let send_second = async move {
        for _ in 0..100 {
            second.send(vec![3; 333].into()).await.unwrap();
        }
    };
    let receive = async {
        let (mut first, mut second) = (0, 0);
        while first + second < 200 {
            match client.next().await {
                Some(Got::Data(1, piece, false)) if piece == [1; 777] => first += 1,
                Some(Got::Data(3, piece, false)) if piece == [3; 333] => second += 1,
                Some(Got::Data(_, piece, true)) if piece.is_empty() => {}
                got => panic!("{got:?}"),
            }
        }
        (first, second)
    };
    let ((), (), counts) = tokio::join!(send_first, send_second, receive);
    assert_eq!(counts, (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_given_up_midway_leaves_whole_frames() {
    let (mut client, mut session) = session(100, Duration::MAX);
    let (_input, mut sink) = stream(&mut client, &mut session, 1).await;
    let cut = tokio::time::timeout(Duration::from_millis(1), sink.send(vec![7; 500].into())).await;
    assert!(cut.is_err(), "the pipe is smaller than the chunk");
    let (sent, got) =
        tokio::join!(sink.send(Bytes::from_static(b"next")), async { (client.next().await, client.next().await) });
    sent.unwrap();
    assert_eq!(got.0, Some(Got::Data(1, vec![7; 500], false)));
    assert_eq!(got.1, Some(Got::Data(1, b"next".to_vec(), false)));
}

#[tokio::test(start_paused = true)]
async fn pings_of_the_client_are_answered_and_no_others() {
    let (mut client, _session) = session(PIPE, Duration::MAX);
    client.send(&client::numbers(client::PING, &[2])).await;
    client.send(&client::numbers(client::PING, &[5])).await;
    assert_eq!(client.next().await, Some(Got::Ping(5)));
    client.silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_one_stream_and_no_other() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (mut input, mut sink) = stream(&mut client, &mut session, 1).await;
    let (_other, mut other_sink) = stream(&mut client, &mut session, 3).await;
    client.send(&client::numbers(client::RESET, &[1, 5])).await;
    assert_eq!(input.recv().await, None);
    sink.gone().cancelled().await;
    assert_eq!(sink.send(Bytes::from_static(b"x")).await, Err(Gone));
    drop(sink);
    other_sink.send(Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(client.next().await, Some(Got::Data(3, b"y".to_vec(), false)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_client_and_a_reader_that_has_gone_does_not() {
    let (mut client, mut session) = session(1000, Duration::MAX);
    let (mut slow, _sink) = stream(&mut client, &mut session, 1).await;
    let (other, _other_sink) = stream(&mut client, &mut session, 3).await;
    let feed = async {
        for number in 0..100_u8 {
            client.send(&client::data(1, 0, &[number; 200])).await;
        }
        client
    };
    let mut feed = std::pin::pin!(feed);
    let stalled = tokio::time::timeout(Duration::from_secs(1), &mut feed).await;
    assert!(stalled.is_err(), "the queue has no end");
    let read = async {
        let mut got = Vec::new();
        while got.len() < 20_000 {
            got.extend_from_slice(&slow.recv().await.unwrap());
        }
        (slow, got)
    };
    let (mut client, (slow, got)) = tokio::join!(feed, read);
    assert_eq!(got, (0..100_u8).flat_map(|number| [number; 200]).collect::<Vec<_>>());
    drop((other, slow));
    for _ in 0..100 {
        client.send(&client::data(1, 0, &[1; 200])).await;
        client.send(&client::data(3, 0, &[1; 200])).await;
    }
    client.send(&client::numbers(client::PING, &[1])).await;
    assert_eq!(client.next().await, Some(Got::Ping(1)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_ends_the_session() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (mut input, mut sink) = stream(&mut client, &mut session, 1).await;
    drop(client);
    assert_eq!(input.recv().await, None);
    session.gone().cancelled().await;
    assert_eq!(sink.send(Bytes::from_static(b"x")).await, Err(Gone));
    assert!(session.accept().await.is_none());
    session.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_stuck_ends_with_the_session() {
    let (client, io) = Client::new(100);
    let mut client = client;
    let outside = CancellationToken::new();
    let mut session = Session::start(io, 8, &SessionContext { gone: outside.clone(), ..life(Duration::MAX) });
    let (_input, mut sink) = stream(&mut client, &mut session, 1).await;
    let (sent, ()) = tokio::join!(sink.send(vec![7; 500].into()), async { outside.cancel() });
    assert_eq!(sent, Err(Gone));
    assert!(session.gone().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_a_busy_one_does_not() {
    let idle = Duration::from_secs(60);
    let (mut client, mut session) = session(PIPE, idle);
    let (_input, mut sink) = stream(&mut client, &mut session, 1).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        client.send(&client::numbers(client::PING, &[1])).await;
        assert_eq!(client.next().await, Some(Got::Ping(1)));
        tokio::time::sleep(Duration::from_secs(40)).await;
        sink.send(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(client.next().await, Some(Got::Data(1, b"x".to_vec(), false)));
    }
    assert!(!session.gone().is_cancelled());
    let before = tokio::time::Instant::now();
    session.gone().cancelled().await;
    assert!((59..62).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_says_goodbye_and_waits_for_the_client() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (_input, sink) = stream(&mut client, &mut session, 1).await;
    sink.send_last(Bytes::from_static(b"done")).await;
    let close = async {
        let before = tokio::time::Instant::now();
        session.close().await;
        before.elapsed()
    };
    let client = async move {
        assert_eq!(client.next().await, Some(Got::Data(1, b"done".to_vec(), true)));
        assert_eq!(client.next().await, Some(Got::GoAway(1, 0)));
        // The server waits, and refuses new streams.
        client.open(3, &[]).await;
        assert_eq!(client.next().await, Some(Got::Reset(3, 3)));
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    let (took, ()) = tokio::join!(close, client);
    assert_eq!(took.as_secs(), 2, "the client went after two");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stays_is_left() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (_input, _sink) = stream(&mut client, &mut session, 1).await;
    let ((), rest) = tokio::join!(session.close(), client.rest());
    assert_eq!(rest, [Got::GoAway(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_clients_goaway_ends_the_session_with_its_last_stream() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (mut input, mut sink) = stream(&mut client, &mut session, 1).await;
    client.send(&client::numbers(client::GO_AWAY, &[0, 0])).await;
    client.open(3, &[]).await;
    assert_eq!(client.next().await, Some(Got::Reset(3, 3)));
    sink.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(client.next().await, Some(Got::Data(1, b"x".to_vec(), false)));
    sink.finish().await;
    client.send(&client::data(1, FIN, b"y")).await;
    assert_eq!(input.recv().await.unwrap(), "y");
    session.gone().cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn headers_with_fin_close_the_clients_half() {
    let (mut client, mut session) = session(PIPE, Duration::MAX);
    let (mut input, _sink) = stream(&mut client, &mut session, 1).await;
    let headers = client.encoder.headers(client::HEADERS, 1, FIN, &[("x", "y")]);
    client.send(&headers).await;
    assert_eq!(input.recv().await, None);
    // A stream can be half-closed from the start.
    let born = client.encoder.open(3, FIN, &[("streamtype", "data")]);
    client.send(&born).await;
    let (mut input, _sink) = session.accept().await.unwrap().accept().unwrap();
    assert_eq!(input.recv().await, None);
}

#[test]
fn ids_of_clients_are_odd() {
    let mut encoder = client::Encoder::new();
    let mut input = bytes::BytesMut::from(&encoder.open(0x8000_0003, 0, &[])[..]);
    let frame = super::super::frame::Parser::default().next(&mut input);
    let Ok(Some(super::super::frame::Frame::Open { stream, .. })) = frame else { panic!("{frame:?}") };
    let id: StreamId = stream;
    assert_eq!((id.get(), id.is_the_clients()), (3, true));
}
