use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::super::port_forward;
use super::client::{self, Client, FIN, Got};
use super::life;
use crate::ids::SandboxId;
use crate::streaming::{Attach, Backend, Duplex, Exec, Failure, PortForward, Streams};
use crate::tasks::Tasks;

/// Port 7 echoes what it receives and sends "bye" at the end. Port 9 waits until `gone`. All other ports refuse.
struct Ports;

impl Backend for Ports {
    fn exec(&self, _: Exec, _: Streams) -> BoxFuture<'static, Result<i32, Failure>> {
        async { Err(Failure("no containers here".to_owned())) }.boxed()
    }

    fn attach(&self, _: Attach, _: Streams) -> BoxFuture<'static, Result<(), Failure>> {
        async { Err(Failure("no containers here".to_owned())) }.boxed()
    }

    fn port_forward(&self, _: SandboxId, port: u16, connection: Duplex) -> BoxFuture<'static, Result<(), Failure>> {
        let Duplex { mut from_client, mut to_client, gone } = connection;
        async move {
            match port {
                7 => {
                    while let Some(piece) = from_client.recv().await {
                        to_client.send(piece).await.map_err(|gone| Failure(gone.to_string()))?;
                    }
                    to_client.send("bye".into()).await.map_err(|gone| Failure(gone.to_string()))?;
                    to_client.finish().await;
                    Ok(())
                }
                9 => {
                    gone.cancelled().await;
                    Ok(())
                }
                port => Err(Failure(format!("port {port}: connection refused"))),
            }
        }
        .boxed()
    }
}

fn start(ports: Vec<u16>) -> (Client, JoinHandle<()>) {
    let (client, io) = Client::new(64 * 1024);
    let session = async move {
        let (context, sandbox) = (life(Duration::MAX), SandboxId::random());
        port_forward(io, &context, Arc::new(Ports), PortForward { sandbox, ports }).await;
        assert_eq!(context.tasks.in_flight(), 0, "something is left of it");
    };
    (client, Tasks::default().operation(session))
}

async fn pair(client: &mut Client, error: u32, data: u32, port: &str, request: &str) {
    client.opened(error, &[("streamtype", "error"), ("port", port), ("requestid", request)]).await;
    client.opened(data, &[("streamtype", "data"), ("port", port), ("requestid", request)]).await;
}

#[tokio::test(start_paused = true)]
async fn half_closes_are_kept() {
    let (mut client, session) = start(Vec::new());
    pair(&mut client, 1, 3, "7", "0").await;
    client.send(&client::data(1, FIN, b"")).await;
    client.send(&client::data(3, 0, b"hello")).await;
    assert_eq!(client.next().await, Some(Got::Data(3, b"hello".to_vec(), false)));
    client.send(&client::data(3, FIN, b"")).await;
    assert_eq!(client.next().await, Some(Got::Data(3, b"bye".to_vec(), false)));
    assert_eq!(client.next().await, Some(Got::Data(3, Vec::new(), true)));
    assert_eq!(client.next().await, Some(Got::Data(1, Vec::new(), true)), "no error");
    drop(client);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_connections_share_a_session() {
    let (mut client, session) = start(vec![7]);
    let mut sent = BTreeMap::new();
    for number in 0..200_u32 {
        let (error, data) = (number * 4 + 1, number * 4 + 3);
        pair(&mut client, error, data, "7", &number.to_string()).await;
        sent.insert(data, format!("of {number}"));
    }
    for (stream, text) in &sent {
        client.send(&client::data(*stream, FIN, text.as_bytes())).await;
    }
    let (mut got, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), 0);
    while ended < 400 {
        let Some(Got::Data(stream, piece, fin)) = client.next().await else { panic!("no data") };
        got.entry(stream).or_default().extend(piece);
        ended += usize::from(fin);
    }
    for (stream, text) in sent {
        assert_eq!(got[&stream], format!("{text}bye").into_bytes());
        assert!(got[&(stream - 2)].is_empty(), "no error");
    }
    drop(client);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn clients_without_request_ids_open_streams_in_pairs() {
    let (mut client, _session) = start(Vec::new());
    client.opened(5, &[("streamtype", "error"), ("port", "7")]).await;
    client.opened(7, &[("streamtype", "data"), ("port", "7")]).await;
    client.send(&client::data(7, FIN, b"x")).await;
    assert_eq!(client.next().await, Some(Got::Data(7, b"x".to_vec(), false)));
}

#[tokio::test(start_paused = true)]
async fn an_error_is_sent_on_the_error_stream() {
    for (ports, port, why) in
        [(vec![], "8", "port 8: connection refused"), (vec![7, 9], "8", "not among the requested ones")]
    {
        let (mut client, _session) = start(ports);
        pair(&mut client, 1, 3, port, "0").await;
        let mut message = None;
        for _ in 0..2 {
            match client.next().await {
                Some(Got::Data(1, text, true)) => message = Some(String::from_utf8(text).unwrap()),
                Some(Got::Data(3, text, true)) => assert!(text.is_empty()),
                got => panic!("{got:?}"),
            }
        }
        let message = message.unwrap();
        assert!(message.contains(why) && message.contains("error forwarding port 8"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_say_nothing_of_use_are_refused() {
    let (mut client, _session) = start(Vec::new());
    for (number, headers) in [
        &[][..],
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data"), ("port", "http")],
        &[("streamtype", "stdin"), ("port", "7")],
        &[("port", "7")],
    ]
    .into_iter()
    .enumerate()
    {
        let id = u32::try_from(number * 2 + 1).unwrap();
        client.open(id, headers).await;
        assert_eq!(client.next().await, Some(Got::Reset(id, 3)), "{headers:?}");
    }
    client.opened(101, &[("streamtype", "data"), ("port", "7"), ("requestid", "1")]).await;
    client.open(103, &[("streamtype", "data"), ("port", "7"), ("requestid", "1")]).await;
    assert_eq!(client.next().await, Some(Got::Reset(103, 3)), "twice the same");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_other_half_does_not_come_is_closed_after_30_seconds() {
    let (mut client, _session) = start(Vec::new());
    let before = tokio::time::Instant::now();
    client.opened(1, &[("streamtype", "error"), ("port", "7"), ("requestid", "4")]).await;
    let got = client.next().await;
    assert_eq!(before.elapsed().as_secs(), 30);
    let Some(Got::Data(1, text, true)) = got else { panic!("{got:?}") };
    assert!(String::from_utf8(text).unwrap().contains("timed out"));
    client.opened(3, &[("streamtype", "data"), ("port", "7"), ("requestid", "4")]).await;
    assert_eq!(client.next().await, Some(Got::Data(3, Vec::new(), true)));
    assert_eq!(before.elapsed().as_secs(), 60);
    client.opened(5, &[("streamtype", "error"), ("port", "7"), ("requestid", "4")]).await;
    client.silence().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_the_client_resets_it_or_goes() {
    let (mut client, session) = start(Vec::new());
    pair(&mut client, 1, 3, "9", "0").await;
    pair(&mut client, 5, 7, "9", "1").await;
    client.send(&client::numbers(client::RESET, &[3, 5])).await;
    assert_eq!(client.next().await, Some(Got::Data(1, Vec::new(), true)), "only the first has ended");
    client.silence().await;
    drop(client);
    session.await.unwrap();
}
