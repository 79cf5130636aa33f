//! Sessions over WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn open(bed: &Bed, url: &str, protocol: &str) -> Self {
        let mut request = url.replace("http:", "ws:").into_client_request().unwrap();
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, answer) = tokio_tungstenite::client_async(request, bed.connect().await).await.unwrap();
        let chosen = answer.headers().get("sec-websocket-protocol").map_or("", |name| name.to_str().unwrap());
        assert_eq!(chosen, protocol);
        Self(socket)
    }

    async fn send(&mut self, message: &[u8]) {
        self.0.send(Message::Binary(message.to_vec().into())).await.unwrap();
    }

    /// Returns the next message that carries at least one byte of data; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("nothing comes")? {
                Ok(Message::Binary(message)) if message.len() > 1 => return Some(message.to_vec()),
                Ok(Message::Text(message)) if message.len() > 1 => return Some(message.as_bytes().to_vec()),
                Ok(Message::Close(frame)) => {
                    assert!(frame.is_none_or(|frame| frame.code == CloseCode::Normal));
                    return None;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Collects the data of each channel until the server closes the session.
    async fn all(&mut self) -> [Vec<u8>; 5] {
        let mut all = <[Vec<u8>; 5]>::default();
        while let Some(message) = self.next().await {
            all[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
        all
    }
}

fn status(error: &[u8]) -> Value {
    serde_json::from_slice(error).unwrap()
}

#[tokio::test]
async fn v5_half_closes_stdin_and_gives_the_exit_code() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("cat 7"), "v5.channel.k8s.io").await;
    client.send(b"\x00hello ").await;
    client.send(b"\x00world").await;
    client.send(b"\xff\x00").await;
    let [_, stdout, stderr, error, _] = client.all().await;
    assert_eq!((&stdout[..], &stderr[..]), (&b"hello world"[..], &b"done"[..]));
    assert_eq!(status(&error)["details"]["causes"][0]["message"], "7");
    assert_eq!(bed.ended().await, "cat 7");
    bed.empty().await;
}

#[tokio::test]
async fn v5_success_is_a_status_too() {
    let bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("cat 0"), "v5.channel.k8s.io").await;
    client.send(b"\xff\x00").await;
    assert_eq!(status(&client.all().await[3])["status"], "Success");
}

#[tokio::test]
async fn the_first_message_is_empty_and_says_that_the_session_is_there() {
    let bed = Bed::start();
    for (protocol, greeting) in [("v4.channel.k8s.io", &b"\x01"[..]), ("v4.base64.channel.k8s.io", b"1")] {
        let mut client = Client::open(&bed, &bed.exec("sleep"), protocol).await;
        assert_eq!(client.0.next().await.unwrap().unwrap().into_data(), greeting);
    }
}

#[tokio::test]
async fn v4_knows_no_half_close() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("cat 0"), "v4.channel.k8s.io").await;
    client.send(b"\xff\x00").await;
    client.send(b"\x00still").await;
    assert_eq!(client.next().await.unwrap(), b"\x01still");
    client.0.close(None).await.unwrap();
    while client.next().await.is_some() {}
    assert_eq!(bed.ended().await, "cat 0");
    bed.empty().await;
}

#[tokio::test]
async fn base64_is_text_both_ways() {
    let bed = Bed::start();
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let mut client = Client::open(&bed, &bed.exec("cat 0"), protocol).await;
        client.0.send(Message::Text("0Zm9v".into())).await.unwrap();
        assert_eq!(client.next().await.unwrap(), b"1Zm9v");
    }
}

#[tokio::test]
async fn what_failed_is_a_sentence_before_v4_and_a_status_since() {
    let bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("fail"), "v4.channel.k8s.io").await;
    let error = status(&client.all().await[3]);
    assert_eq!(error["reason"], "InternalError");
    assert!(error["message"].as_str().unwrap().contains("no such task"));
    for protocol in ["channel.k8s.io", ""] {
        let mut client = Client::open(&bed, &bed.exec("fail"), protocol).await;
        assert_eq!(client.all().await[3], b"Internal error occurred: no such task");
        let mut client = Client::open(&bed, &bed.exec("yes 3"), protocol).await;
        let [_, stdout, _, error, _] = client.all().await;
        assert_eq!((&stdout[..], &error[..]), (&b"yyy"[..], &b""[..]));
    }
}

#[tokio::test]
async fn a_resize_reaches_the_terminal() {
    let bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("stty"), "v5.channel.k8s.io").await;
    client.send(b"\x04{\"Width\":132,\"Hei").await;
    client.send(b"\x04ght\":43}\n").await;
    assert_eq!(client.all().await[1], b"132 43");
}

#[tokio::test]
async fn attach_has_the_same_protocols() {
    let bed = Bed::start();
    let (sandbox, container) = (SandboxId::random(), ContainerId::random());
    let request = Attach { sandbox, container, tty: false, stdin: false, stdout: true, stderr: false };
    let url = bed.streaming.attach_url(request).unwrap();
    let mut client = Client::open(&bed, &url, "v4.channel.k8s.io").await;
    let [_, stdout, _, error, _] = client.all().await;
    assert_eq!(stdout, b"attached");
    assert_eq!(status(&error)["status"], "Success");
}

#[tokio::test]
async fn long_output_comes_whole() {
    let bed = Bed::start();
    for protocol in ["v5.channel.k8s.io", "channel.k8s.io"] {
        let mut client = Client::open(&bed, &bed.exec("yes 5000000"), protocol).await;
        assert_eq!(client.all().await[1].len(), 5_000_000);
    }
}

#[tokio::test]
async fn a_long_message_goes_in_whole() {
    let bed = Bed::start();
    let client = Client::open(&bed, &bed.exec("cat 0"), "v5.channel.k8s.io").await;
    let mut message = vec![b'x'; 5_000_001];
    message[0] = 0;
    let (mut write, mut read) = client.0.split();
    let sending = async {
        write.send(Message::Binary(message.into())).await.unwrap();
        write.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.unwrap();
    };
    let receiving = async {
        let mut stdout = 0;
        while let Some(Ok(Message::Binary(message))) = read.next().await {
            stdout += if message[0] == 1 { message.len() - 1 } else { 0 };
        }
        stdout
    };
    assert_eq!(tokio::join!(sending, receiving).1, 5_000_000);
}

#[tokio::test]
async fn a_ping_is_answered_also_while_the_command_is_silent() {
    let bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("sleep"), "v5.channel.k8s.io").await;
    client.0.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, client.0.next()).await.unwrap().unwrap().unwrap() {
            Message::Pong(pong) => break assert_eq!(&pong[..], b"there?"),
            other => assert!(other.is_binary(), "{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_drops_ends_its_session_at_once() {
    let mut bed = Bed::start();
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", ""] {
        drop(Client::open(&bed, &bed.exec("sleep"), protocol).await);
        assert_eq!(bed.ended().await, "sleep");
    }
    bed.empty().await;
}

#[tokio::test]
async fn a_client_that_drops_is_noticed_behind_a_full_stdin() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("sleep"), "v5.channel.k8s.io").await;
    let piece = vec![0; 8_000];
    // More than the queue of the command holds, and less than the socket buffers hold: the client's kernel announces
    // its close only after it has sent all earlier bytes.
    for _ in 0..15 {
        client.send(&piece).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(client);
    assert_eq!(bed.ended().await, "sleep");
    bed.empty().await;
}

#[tokio::test]
async fn a_client_that_drops_ends_output_that_it_does_not_read() {
    let mut bed = Bed::start();
    let client = Client::open(&bed, &bed.exec("yes"), "v5.channel.k8s.io").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(client);
    assert_eq!(bed.ended().await, "yes");
    bed.empty().await;
}

#[tokio::test]
async fn a_session_that_carries_nothing_ends() {
    let mut bed = Bed::with(&Settings { idle_timeout: Duration::from_millis(300), ..Settings::default() });
    let mut client = Client::open(&bed, &bed.exec("sleep"), "v5.channel.k8s.io").await;
    assert_eq!(status(&client.all().await[3])["details"]["causes"][0]["message"], "137");
    assert_eq!(bed.ended().await, "sleep");
}

#[tokio::test]
async fn the_daemons_stop_ends_sessions_and_says_goodbye() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("sleep"), "v5.channel.k8s.io").await;
    let stuck = Client::open(&bed, &bed.exec("yes"), "v5.channel.k8s.io").await;
    let streaming = bed.streaming.clone();
    let (all, ()) = tokio::join!(client.all(), streaming.shutdown(PATIENCE));
    assert_eq!(status(&all[3])["reason"], "NonZeroExitCode");
    let mut ended = [bed.ended().await, bed.ended().await];
    ended.sort();
    assert_eq!(ended, ["sleep", "yes"]);
    assert_eq!(bed.streaming.sessions(), 0);
    drop(stuck);
}

#[tokio::test]
async fn hostile_frames_end_the_session() {
    // Each is a whole frame, or a header that announces a length that no frame may have.
    let hostile: [(&str, &str, &[u8]); 6] = [
        ("a close of no channel", "v5.channel.k8s.io", b"\x82\x82\0\0\0\0\xff\x09"),
        ("no base64", "v4.base64.channel.k8s.io", b"\x81\x83\0\0\0\x000!!"),
        ("not masked", "v4.channel.k8s.io", b"\x82\x02\x00x"),
        ("2^64 bytes", "v4.channel.k8s.io", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"),
        ("a reserved bit", "v4.channel.k8s.io", b"\xf2\x82\0\0\0\0\x00x"),
        ("a continuation of nothing", "v4.channel.k8s.io", b"\x80\x82\0\0\0\0\x00x"),
    ];
    for (what, protocol, frame) in hostile {
        let mut bed = Bed::start();
        let mut client = Client::open(&bed, &bed.exec("sleep"), protocol).await;
        client.0.get_mut().write_all(frame).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, bed.ended.recv()).await;
        assert_eq!(ended.unwrap_or_else(|_| panic!("{what} was taken")).unwrap(), "sleep");
        bed.empty().await;
    }
}

#[tokio::test]
async fn a_flood_of_pings_from_a_client_that_does_not_read_is_bounded() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.exec("sleep"), "v4.channel.k8s.io").await;
    let ping = [&b"\x89\xfd\0\0\0\0"[..], &[b'p'; 125]].concat().repeat(500);
    let socket = client.0.get_mut();
    for _ in 0..400 {
        socket.write_all(&ping).await.unwrap();
    }
    socket.shutdown().await.unwrap();
    // Only as many pongs exist as the socket buffers and our own buffer hold; the others were never created.
    let mut answers = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answers)).await.expect("no end");
    assert!(answers.len() < 400 * ping.len() * 2 / 3, "{} bytes of answers were kept", answers.len());
    assert_eq!(bed.ended().await, "sleep");
}

#[tokio::test]
async fn ports_have_two_channels_that_begin_with_the_port() {
    let mut bed = Bed::start();
    let mut client = Client::open(&bed, &bed.forward(&[0x1f90, 1]), "v4.channel.k8s.io").await;
    client.send(b"\x00ping").await;
    let mut channels = <[Vec<u8>; 4]>::default();
    while channels[0].len() < 11 || channels[3].len() < 10 {
        let message = client.next().await.unwrap();
        channels[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    assert_eq!(channels[0], b"\x90\x1f8080:ping");
    assert_eq!(channels[1], b"\x90\x1f");
    assert_eq!(channels[2], b"\x01\x00");
    assert_eq!(&channels[3][..2], b"\x01\x00");
    assert!(channels[3].ends_with(b"connection refused"), "{:?}", channels[3]);
    drop(client);
    assert_eq!(bed.ended().await, "port 8080");
    bed.empty().await;
}

#[tokio::test]
async fn ports_come_from_the_query_when_the_rpc_named_none() {
    let bed = Bed::start();
    let url = format!("{}?port=80,81&port=82", bed.forward(&[]));
    let mut client = Client::open(&bed, &url, "").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = client.next().await.unwrap();
        if message[0] % 2 == 0 && message.len() == 3 {
            seen.push(message[1]);
        }
    }
    assert_eq!(seen, [80, 81, 82]);
    for query in ["", "?port=", "?port=0", "?port=70000", &format!("?port={}", vec!["1"; 33].join(","))] {
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let (status, _) = bed.request("GET", &format!("{}{query}", bed.forward(&[])), headers).await;
        assert_eq!(status, 400, "{query}");
    }
}
