//! What clients without a valid token get, and how SPDY sessions begin and end.

use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;
use crate::streaming::spdy::tests::client;

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
const TUNNEL: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                      Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n";

#[tokio::test]
async fn cri_dockerd_106_and_cri_o_1714_only_loopback_by_default() {
    let bed = Bed::start();
    assert!(bed.streaming.base_url().starts_with("http://127.0.0.1:"), "{}", bed.streaming.base_url());
    for address in ["0.0.0.0:0", "[::]:0"] {
        let settings = Settings { address: address.parse().unwrap(), ..Settings::default() };
        let refused = Streaming::bind(&settings, Tasks::default()).err().map(|error| error.to_string());
        assert!(refused.unwrap().contains("needs TLS"));
    }
}

#[tokio::test]
async fn cve_2020_8558_a_token_that_was_shown_is_404() {
    let bed = Bed::start();
    let url = bed.exec("fail");
    assert_eq!(bed.request("GET", &url, "").await.0, 400, "no upgrade, and yet the token is used up");
    assert_eq!(bed.request("GET", &url, SPDY).await.0, 404);
    assert_eq!(bed.request("GET", &url.replace("exec", "attach"), SPDY).await.0, 404);
}

#[tokio::test]
async fn cve_2020_8558_a_token_is_good_for_its_own_verb() {
    let bed = Bed::start();
    let url = bed.exec("fail");
    assert_eq!(bed.request("GET", &url.replace("exec", "portforward"), SPDY).await.0, 404);
    for path in ["/", "/exec", "/exec/", "/metrics", "//exec/x", "/exec/../exec/x", "*"] {
        assert_eq!(bed.request("GET", path, SPDY).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn another_method_is_refused_and_keeps_the_token() {
    let bed = Bed::start();
    let url = bed.exec("fail");
    for method in ["PUT", "DELETE", "OPTIONS", "HEAD"] {
        assert_eq!(bed.request(method, &url, SPDY).await.0, 405, "{method}");
    }
    assert_eq!(bed.request("POST", &url, "").await.0, 400);
}

#[tokio::test]
async fn cve_2020_8558_the_1001st_url_is_refused() {
    let bed = Bed::start();
    for _ in 0..1000 {
        bed.exec("fail");
    }
    let request = PortForward { sandbox: SandboxId::random(), ports: Vec::new() };
    assert!(bed.streaming.port_forward_url(request).is_err());
}

struct Lines(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("pontoon") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn cve_2020_8558_guesses_write_no_log() {
    let lines = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(Lines(Arc::clone(&lines))));
    let bed = Bed::start();
    for guess in 0..200 {
        assert_eq!(bed.request("GET", &format!("/exec/guess{guess}"), SPDY).await.0, 404);
    }
    for nonsense in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\x01"] {
        let mut stream = bed.connect().await;
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(lines.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_says_little() {
    let bed = Bed::start();
    let (_, answer) = bed.request("GET", "/exec/guess", "").await;
    assert!(answer.len() < 200, "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("server:"), "{answer}");
}

#[tokio::test]
async fn spdy_is_negotiated_as_kubelets_server_does() {
    let bed = Bed::start();
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    assert_eq!(bed.request("POST", &bed.exec("fail"), upgrade).await.0, 400, "no X-Stream-Protocol-Version");
    let unknown = format!("{upgrade}X-Stream-Protocol-Version: v9.channel.k8s.io\r\n");
    let (status, answer) = bed.request("POST", &bed.exec("fail"), &unknown).await;
    assert_eq!(status, 403);
    let accepted = answer.lines().filter(|line| line.starts_with("x-accepted-stream-protocol-versions: "));
    assert_eq!(accepted.count(), 4, "{answer}");
    assert_eq!(bed.request("POST", &bed.forward(&[]), &unknown).await.0, 403);
    let other = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
    assert_eq!(bed.request("POST", &bed.exec("fail"), other).await.0, 400);
}

#[tokio::test]
async fn a_long_header_is_refused() {
    let bed = Bed::start();
    let long = format!("X: {}\r\n", "x".repeat(20 << 10));
    let mut stream = bed.connect().await;
    // The response may arrive before the server has read the whole header.
    let _ = stream.write_all(format!("GET {} HTTP/1.1\r\n{long}\r\n", "/exec/x").as_bytes()).await;
    let mut answer = String::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it is still read");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = "X: x\r\n".repeat(100);
    assert_eq!(bed.request("GET", "/exec/x", &many).await.0, 431);
}

#[tokio::test(start_paused = true)]
async fn a_slow_header_is_not_waited_for() {
    let bed = Bed::start();
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /exec/x HTTP/1.1\r\nHost:").await.unwrap();
    let mut answer = Vec::new();
    let begun = tokio::time::Instant::now();
    // The paused clock advances on its own while every task is idle.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(begun.elapsed() < Duration::from_secs(21), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_without_a_token_do_not_lock_out_clients_that_have_one() {
    let bed = Bed::start();
    let (_, _session) = switch(&bed, &bed.exec("sleep"), SPDY).await;
    let mut strangers = Vec::new();
    for _ in 0..2 * super::super::server::MAX_PENDING_CONNECTIONS {
        strangers.push(bed.connect().await);
    }
    let url = bed.exec("sleep");
    assert!(switch(&bed, &url, SPDY).await.0.starts_with("http/1.1 101"));
    // The oldest connection has been closed, the newest has not.
    let mut end = [0];
    let oldest = tokio::time::timeout(PATIENCE, strangers[0].read(&mut end)).await.expect("it is still served");
    assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    let youngest = strangers.last_mut().unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), youngest.read(&mut end)).await;
    assert!(early.is_err(), "{early:?}");
}

#[tokio::test]
async fn t6_one_session_too_many_is_refused_and_keeps_its_token_and_another_pods_begins() {
    let bed = Bed::start();
    let pod = SandboxId::random();
    let url = bed.exec_in(pod.clone(), vec!["sleep".to_owned()], false);
    let slots: Vec<_> = std::iter::from_fn(|| bed.streaming.shared.slots.try_take(pod.as_str(), "")).collect();
    assert_eq!(slots.len(), MOST_SESSIONS / 2);
    assert_eq!(bed.request("POST", &url, SPDY).await.0, 503);
    let (head, _other) = switch(&bed, &bed.exec("sleep"), SPDY).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    drop(slots);
    assert!(switch(&bed, &url, SPDY).await.0.starts_with("http/1.1 101"));
}

#[tokio::test]
async fn no_client_is_accepted_after_the_end() {
    let bed = Bed::start();
    bed.streaming.shutdown(PATIENCE).await;
    let address = bed.streaming.base_url().split_once("//").unwrap().1.to_owned();
    let closed = async {
        while TcpStream::connect(&address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("it still listens");
}

/// Sends a request that must become a session. Returns the head of the response in lower case, and the connection.
async fn switch(bed: &Bed, url: &str, headers: &str) -> (String, TcpStream) {
    let mut stream = bed.connect().await;
    let path = url.strip_prefix(bed.streaming.base_url()).unwrap();
    stream.write_all(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("no answer").unwrap());
    }
    (String::from_utf8(head).unwrap().to_ascii_lowercase(), stream)
}

#[tokio::test]
async fn spdy_is_switched_to_and_the_session_ends_with_its_client() {
    let bed = Bed::start();
    let ports = SPDY.replace("v4.channel.k8s.io", "portforward.k8s.io");
    for (url, headers, protocol) in
        [(bed.exec("sleep"), SPDY, "v4.channel.k8s.io"), (bed.forward(&[]), ports.as_str(), "portforward.k8s.io")]
    {
        let (head, stream) = switch(&bed, &url, headers).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        for line in ["connection: upgrade", "upgrade: spdy/3.1", &format!("x-stream-protocol-version: {protocol}")] {
            assert!(head.lines().any(|there| there == line), "no {line} in {head}");
        }
        assert_eq!(bed.streaming.sessions(), 1);
        drop(stream);
        bed.empty().await;
    }
}

#[tokio::test]
async fn spdy_in_a_tunnel_ends_with_its_client() {
    let bed = Bed::start();
    let (head, stream) = switch(&bed, &bed.forward(&[80]), TUNNEL).await;
    assert!(head.contains("sec-websocket-protocol: spdy/3.1+portforward.k8s.io"), "{head}");
    assert_eq!(bed.streaming.sessions(), 1);
    drop(stream);
    bed.empty().await;
}

#[tokio::test]
async fn the_daemons_stop_ends_spdy_too() {
    let bed = Bed::start();
    let (_, mut stream) = switch(&bed, &bed.exec("sleep"), SPDY).await;
    let streaming = bed.streaming.clone();
    // The server sends GOAWAY, and then closes the connection.
    let mut rest = Vec::new();
    let (_, ()) = tokio::join!(stream.read_to_end(&mut rest), streaming.shutdown(PATIENCE));
    assert_eq!(bed.streaming.sessions(), 0);
}

/// The frames of two connections to port 9, which reads nothing. The first connection gets more data than a stream's
/// queue holds, so the session stops reading before the end of these frames.
fn stuck() -> Vec<u8> {
    let mut encoder = client::Encoder::new();
    let mut frames = Vec::new();
    for (error, data, request) in [(1, 3, "0"), (5, 7, "1")] {
        for (stream, kind) in [(error, "error"), (data, "data")] {
            let headers = [("streamtype", kind), ("port", "9"), ("requestid", request)];
            frames.extend(encoder.open(stream, 0, &headers));
        }
    }
    for _ in 0..1000 {
        frames.extend(client::data(3, 0, b"not read"));
    }
    frames
}

#[tokio::test]
async fn a_forwarding_client_that_drops_is_noticed_behind_a_port_that_does_not_read() {
    let mut bed = Bed::start();
    let headers = SPDY.replace("v4.channel.k8s.io", "portforward.k8s.io");
    let (_, mut stream) = switch(&bed, &bed.forward(&[]), &headers).await;
    stream.write_all(&stuck()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    assert_eq!([bed.ended().await, bed.ended().await], ["port 9", "port 9"]);
    bed.empty().await;
}

#[tokio::test]
async fn a_forwarding_client_that_drops_is_noticed_in_a_tunnel_too() {
    let mut bed = Bed::start();
    let (_, mut stream) = switch(&bed, &bed.forward(&[]), TUNNEL).await;
    // One WebSocket message, with a mask of zeros.
    let frames = stuck();
    let length = u16::try_from(frames.len()).unwrap().to_be_bytes();
    stream.write_all(&[&[0x82, 0xfe], &length[..], &[0; 4], &frames].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    assert_eq!([bed.ended().await, bed.ended().await], ["port 9", "port 9"]);
    bed.empty().await;
}
