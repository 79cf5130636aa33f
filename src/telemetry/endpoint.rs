//! The page that Prometheus scrapes: `GET /metrics` over HTTP/1.1, on a loopback address or a UNIX socket.
//!
//! A client that can reach it learns the names of methods and plugins and how often they are used, but nothing about
//! any pod. The page accepts no commands.

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::Metrics;
use crate::pending_connections::PendingConnections;
use crate::tasks::Tasks;

/// The OpenMetrics text format.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at a time. A further one displaces the oldest: any process that can reach a loopback address could
/// otherwise hold all of them.
const CONNECTIONS: usize = 32;
/// The longest that a connection may take in all: a client that does not read must not hold one forever.
const CONNECTION: Duration = Duration::from_secs(60);
/// The pause after a failed accept, such as for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Where the page is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address of the loopback interface.
    Loopback(SocketAddr),
    /// A UNIX socket with mode 0600.
    Unix(PathBuf),
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("{text:?} is not an absolute path"))
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is neither IP:PORT nor unix:///PATH"))?;
        if address.ip().is_loopback() {
            Ok(Self::Loopback(address))
        } else {
            Err(format!(
                "{text:?} can be reached from outside; use an address of the loopback interface or unix:///PATH"
            ))
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}/metrics"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Starts serving the page, for as long as the process lives.
///
/// # Errors
/// When the address or the path cannot be bound.
pub async fn serve(endpoint: &Endpoint, metrics: Metrics, tasks: &Tasks) -> io::Result<()> {
    match endpoint {
        Endpoint::Loopback(address) => {
            let listener = TcpListener::bind(address).await?;
            let accept = async move || listener.accept().await.map(|(stream, _)| stream);
            tasks.background(accept_all(accept, metrics, tasks.clone()));
        }
        Endpoint::Unix(path) => {
            // Left by a process that was killed. A file that is no socket is not ours to remove.
            if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
                fs::remove_file(path)?;
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            let accept = async move || listener.accept().await.map(|(stream, _)| stream);
            tasks.background(accept_all(accept, metrics, tasks.clone()));
        }
    }
    Ok(())
}

async fn accept_all<S>(accept: impl AsyncFn() -> io::Result<S>, metrics: Metrics, tasks: Tasks)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connections = PendingConnections::new(CONNECTIONS);
    loop {
        match accept().await {
            Ok(stream) => {
                let (metrics, pending) = (metrics.clone(), connections.add());
                tasks.background(async move {
                    let answer = tokio::time::timeout(CONNECTION, answer(stream, metrics, pending.time_limit));
                    // A scraper that disconnects loses only its own response.
                    pending.displaced.run_until_cancelled(answer).await;
                    drop(pending);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a scraper could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    metrics: Metrics,
    time_limit: Duration,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let metrics = metrics.clone();
        async move { Ok::<_, Infallible>(page(&request, &metrics)) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(time_limit).max_buf_size(16 << 10).keep_alive(false);
    connection.serve_connection(TokioIo::new(stream), service).await
}

fn page<B>(request: &Request<B>, metrics: &Metrics) -> Response<String> {
    let plain = |status, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "see /metrics");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET /metrics");
    }
    let mut response = Response::new(metrics.text().unwrap_or_default());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn only_loopback_and_unix_sockets_are_endpoints() {
        for good in ["127.0.0.1:9560", "127.9.9.9:1", "[::1]:9560"] {
            assert!(matches!(good.parse(), Ok(Endpoint::Loopback(_))), "{good}");
        }
        assert_eq!("unix:///run/x.sock".parse(), Ok(Endpoint::Unix("/run/x.sock".into())));
        for bad in ["0.0.0.0:9560", "[::]:9560", "10.0.0.1:80", "localhost:80", "9560", "unix://x.sock", "/run/x.sock"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    async fn ask(path: &std::path::Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_is_served_on_a_socket_that_is_roots_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        // The state in which a killed process leaves the path.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let metrics = Metrics::on();
        metrics.rpc("Version", "OK", Duration::from_millis(3));
        serve(&Endpoint::Unix(path.clone()), metrics, &Tasks::default()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let answer = ask(&path, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(TEXT), "{answer}");
        let count = "pontoon_rpc_duration_seconds_count{method=\"Version\",code=\"OK\"} 1\n";
        assert!(answer.contains(count) && answer.ends_with("# EOF\n"), "{answer}");
        assert!(ask(&path, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(
            ask(&path, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
    }

    #[tokio::test]
    async fn t6_connections_that_say_nothing_keep_no_scraper_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        serve(&Endpoint::Unix(path.clone()), Metrics::on(), &Tasks::default()).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let answer = ask(&path, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(1), answer).await.expect("the scraper waits");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        drop(silent);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "precious").unwrap();
        assert!(serve(&Endpoint::Unix(path.clone()), Metrics::on(), &Tasks::default()).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
