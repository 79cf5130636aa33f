use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::super::remote_command;
use super::client::{self, Client, FIN, Got};
use super::life;
use crate::streaming::protocol::{Protocol, Wanted};
use crate::streaming::{Failure, Size, Streams};
use crate::tasks::Tasks;

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const TTY: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };

/// Starts a session, and returns its client.
fn start<R>(protocol: Protocol, wanted: Wanted, run: R) -> (Client, JoinHandle<()>)
where
    R: FnOnce(Streams) -> BoxFuture<'static, Result<i32, Failure>> + Send + 'static,
{
    let (client, io) = Client::new(64 * 1024);
    let session = async move {
        let context = life(Duration::MAX);
        remote_command(io, protocol, wanted, &context, run).await;
        assert_eq!(context.tasks.in_flight(), 0, "something is left of it");
    };
    (client, Tasks::default().operation(session))
}

/// Opens streams of these kinds in order, with the numbers 1, 3, 5 and so on.
async fn open(client: &mut Client, kinds: &[&str]) {
    for (number, kind) in kinds.iter().enumerate() {
        let id = u32::try_from(number * 2 + 1).unwrap();
        client.opened(id, &[("streamtype", kind)]).await;
    }
}

/// Reads up to GOAWAY, then closes the connection.
async fn finish(mut client: Client, session: JoinHandle<()>) -> Vec<Got> {
    let mut rest = Vec::new();
    loop {
        let got = client.next().await.expect("GOAWAY comes first");
        let last = matches!(got, Got::GoAway(_, 0));
        rest.push(got);
        if last {
            break;
        }
    }
    drop(client);
    session.await.unwrap();
    rest
}

#[tokio::test(start_paused = true)]
async fn an_exec_copies_streams_and_returns_its_exit_code() {
    let (mut client, session) = start(Protocol::V4, ALL, |mut streams| {
        async move {
            let mut stdin = streams.stdin.take().unwrap();
            let (mut stdout, mut stderr) = (streams.stdout.take().unwrap(), streams.stderr.take().unwrap());
            while let Some(piece) = stdin.recv().await {
                stdout.send(piece.to_ascii_uppercase().into()).await.unwrap();
            }
            stderr.send(Bytes::from_static(b"done")).await.unwrap();
            stdout.finish().await;
            stderr.finish().await;
            Ok(7)
        }
        .boxed()
    });
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    client.send(&client::data(3, 0, b"hello")).await;
    assert_eq!(client.next().await, Some(Got::Data(5, b"HELLO".to_vec(), false)));
    client.send(&client::data(3, FIN, b"")).await;
    let rest = finish(client, session).await;
    let Got::Data(1, status, true) = &rest[3] else { panic!("{rest:?}") };
    assert_eq!(status, &crate::streaming::remote_status::exit_code(7));
    assert_eq!(rest[0], Got::Data(7, b"done".to_vec(), false));
    assert_eq!(rest[1], Got::Data(5, Vec::new(), true));
    assert_eq!(rest[2], Got::Data(7, Vec::new(), true));
    assert!(rest[4..].contains(&Got::Data(3, Vec::new(), true)), "our half of stdin is closed: {rest:?}");
}

#[tokio::test(start_paused = true)]
async fn streams_come_in_any_order() {
    let (mut client, session) = start(Protocol::V4, ALL, |_| async { Ok(0) }.boxed());
    open(&mut client, &["stderr", "stdout", "error", "stdin"]).await;
    let rest = finish(client, session).await;
    let status = crate::streaming::remote_status::success();
    assert!(rest.contains(&Got::Data(5, status, true)), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn older_protocols_have_a_sentence_and_nothing_on_success() {
    for protocol in [Protocol::V1, Protocol::V2, Protocol::V3] {
        for (outcome, sentence) in [
            (Ok(0), ""),
            (Ok(3), "command terminated with non-zero exit code: 3"),
            (Err(Failure("no task".to_owned())), "Internal error occurred: no task"),
        ] {
            let wanted = Wanted { stdout: true, ..Wanted::default() };
            let (mut client, session) = start(protocol, wanted, |_| async { outcome }.boxed());
            open(&mut client, &["error", "stdout"]).await;
            let rest = finish(client, session).await;
            assert!(rest.contains(&Got::Data(1, sentence.as_bytes().to_vec(), true)), "{protocol:?}: {rest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_terminals_sizes_reach_the_backend() {
    // If two sizes arrive at once, the backend gets only the newer one, so wait until it has the first.
    let (seen, first) = tokio::sync::oneshot::channel();
    let (mut client, session) = start(Protocol::V4, TTY, |mut streams| {
        async move {
            assert!(streams.stderr.is_none());
            let size = streams.resize.recv().await;
            assert_eq!(size, Some(Size { width: 80, height: 24 }));
            let _ = seen.send(());
            assert_eq!(streams.resize.recv().await, Some(Size { width: 132, height: 50 }));
            Ok(0)
        }
        .boxed()
    });
    open(&mut client, &["error", "stdin", "stdout", "resize"]).await;
    client.send(&client::data(7, 0, b"{\"Width\":80,\"Height\":24}\n")).await;
    first.await.unwrap();
    client.send(&client::data(7, 0, b"{\"Width\":132,")).await;
    client.send(&client::data(7, 0, b"\"Height\":50}\n")).await;
    let rest = finish(client, session).await;
    assert!(rest.contains(&Got::Data(1, crate::streaming::remote_status::success(), true)), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn protocols_without_resize_do_not_wait_for_it() {
    let (mut client, session) = start(Protocol::V2, TTY, |_| async { Ok(0) }.boxed());
    open(&mut client, &["error", "stdin", "stdout"]).await;
    finish(client, session).await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_not_wanted_or_come_twice_are_refused() {
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let (mut client, session) = start(Protocol::V4, wanted, |_| async { Ok(0) }.boxed());
    client.opened(1, &[("streamtype", "error")]).await;
    for (id, kind) in [(3, "stdin"), (5, "error"), (7, "stderr"), (9, "resize"), (11, "else")] {
        client.open(id, &[("streamtype", kind)]).await;
        assert_eq!(client.next().await, Some(Got::Reset(id, 3)), "{kind}");
    }
    client.open(13, &[]).await;
    assert_eq!(client.next().await, Some(Got::Reset(13, 3)));
    client.opened(15, &[("streamtype", "stdout")]).await;
    finish(client, session).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_few_streams_gets_an_error_after_30_seconds() {
    let (mut client, session) = start(Protocol::V4, ALL, |_| panic!("nothing to run"));
    open(&mut client, &["error", "stdin"]).await;
    let before = tokio::time::Instant::now();
    let got = client.next().await;
    assert_eq!(before.elapsed().as_secs(), 30);
    let Some(Got::Data(1, status, true)) = got else { panic!("{got:?}") };
    assert!(String::from_utf8(status).unwrap().contains("did not open all streams within 30s"));
    finish(client, session).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_command() {
    let (mut client, session) = start(Protocol::V4, ALL, |streams| {
        async move {
            streams.gone.cancelled().await;
            Ok(137)
        }
        .boxed()
    });
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    drop(client);
    session.await.unwrap();
    // If the client goes before it has opened its streams, nothing is run.
    let (client, session) = start(Protocol::V4, ALL, |_| panic!("nothing to run"));
    drop(client);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stdin_that_the_command_does_not_read_holds_nothing_up() {
    let (mut client, session) = start(Protocol::V4, ALL, |streams| {
        async move {
            let Streams { stdin, stdout, stderr, .. } = streams;
            drop(stdin);
            let mut stdout = stdout.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            stdout.send(Bytes::from_static(b"still here")).await.unwrap();
            drop(stderr);
            Ok(0)
        }
        .boxed()
    });
    open(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    for _ in 0..100 {
        client.send(&client::data(3, 0, &[0; 30_000])).await;
    }
    assert_eq!(client.next().await, Some(Got::Data(5, b"still here".to_vec(), false)));
    finish(client, session).await;
}
