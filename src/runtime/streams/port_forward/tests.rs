use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::streaming::Gone;

/// The client's receiving end; `None` stands for the end of the output.
struct ToTest(mpsc::Sender<Option<Bytes>>);

impl Sink for ToTest {
    fn send(&mut self, chunk: Bytes) -> BoxFuture<'_, std::result::Result<(), Gone>> {
        async move { self.0.send(Some(chunk)).await.map_err(|_| Gone) }.boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        async move { drop(self.0.send(None).await) }.boxed()
    }
}

/// A forwarded connection: the port's end, the client's input and output, and the copying itself.
async fn forwarded() -> (TcpStream, mpsc::Sender<Bytes>, mpsc::Receiver<Option<Bytes>>, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (port, _) = listener.accept().await.unwrap();
    let ((input, from_client), (to_test, output)) = (mpsc::channel(1), mpsc::channel(1));
    (port, input, output, copy(stream, from_client, Box::new(ToTest(to_test))))
}

#[tokio::test]
async fn the_clients_end_is_the_ports_and_the_answer_still_comes() {
    let (mut port, input, mut output, copying) = forwarded().await;
    let test = async {
        input.send(Bytes::from_static(b"question")).await.unwrap();
        drop(input);
        let mut asked = Vec::new();
        port.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, b"question");
        port.write_all(b"answer").await.unwrap();
        drop(port);
        assert_eq!(output.recv().await.unwrap().unwrap(), "answer");
        assert_eq!(output.recv().await, Some(None));
    };
    join(copying, test).await;
}

#[tokio::test]
async fn the_end_of_the_ports_output_reaches_the_client_which_may_still_send() {
    let (mut port, input, mut output, copying) = forwarded().await;
    let test = async {
        port.shutdown().await.unwrap();
        assert_eq!(output.recv().await, Some(None));
        input.send(Bytes::from_static(b"more")).await.unwrap();
        drop(input);
        let mut all = Vec::new();
        port.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"more");
    };
    join(copying, test).await;
}

#[tokio::test]
async fn a_megabyte_comes_through_both_ways() {
    let (mut port, input, mut output, copying) = forwarded().await;
    let bytes: Bytes = (0..1 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<u8>>().into();
    let echo = async {
        let (mut read, mut write) = port.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let send = async {
        for piece in bytes.chunks(10_000) {
            input.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(input);
    };
    let receive = async {
        let mut all = Vec::new();
        while let Some(Some(piece)) = output.recv().await {
            all.extend_from_slice(&piece);
        }
        assert!(all == bytes);
    };
    tokio::join!(copying, echo, send, receive);
}

#[tokio::test]
async fn a_port_is_that_of_the_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "a network namespace needs root");
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = directory.path().join("netns").join("test");
    netns::create(&path).await.unwrap();
    let id = SandboxId::random();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = netns::enter(&path, move || std::net::TcpListener::bind(address)).await.unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect(Some(&path), &id, port).await.is_ok(), "{address}");
        // On the host, nothing listens on this port, or another process does.
        let from = listener.accept().unwrap().1;
        assert!(from.ip().is_loopback());
        // Closing it is not enough: a child that another test has just forked holds it until it calls exec.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        let refused = connect(Some(&path), &id, port).await.unwrap_err().0;
        let expected = format!(
            "failed to connect to localhost:{port} inside namespace \"{id}\", IPv4: dial tcp 127.0.0.1:{port}: connect: \
             connection refused IPv6 dial tcp [::1]:{port}: connect: connection refused"
        );
        assert!(refused.ends_with(&expected), "{refused}");
    }
    netns::remove(&path).await.unwrap();
    let gone = connect(Some(&path), &id, 1).await.unwrap_err().0;
    assert!(gone.contains("enter netns"), "{gone}");
    let _ = nix::mount::umount2(&directory.path().join("netns"), nix::mount::MntFlags::MNT_DETACH);
}
