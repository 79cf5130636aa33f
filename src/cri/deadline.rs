//! Enforces the deadline that a client sets for its call: once it has passed, the call returns DeadlineExceeded. Work
//! that the call has started continues.
//!
//! tonic has the same timer in an outer layer, but returns Cancelled. A client whose own timer fires later than ours
//! would receive that code, while kubelet and critest expect DeadlineExceeded. This timer starts before tonic's and is
//! polled first, so it is never later.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::status;

/// The header in which a client sends its timeout.
const TIMEOUT: &str = "grpc-timeout";
/// Largest number of digits in a timeout (gRPC over HTTP/2, "Timeout").
const DIGITS: usize = 8;

/// The innermost layer of a server: ends calls at their deadlines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadlines;

/// A service whose calls end at their deadlines.
#[derive(Clone, Debug)]
pub struct Timed<S> {
    inner: S,
}

impl<S> Layer<S> for Deadlines {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner }
    }
}

impl<S, B> Service<Request<B>> for Timed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let timeout = request.headers().get(TIMEOUT).and_then(parse);
        let answer = self.inner.call(request);
        let Some(timeout) = timeout else { return Box::pin(answer) };
        // The timeout counts from here, not from the first poll: tonic's timer starts after this call.
        let answer = tokio::time::timeout(timeout, answer);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Ok(status::deadline_passed().into_http())) })
    }
}

/// Parses a timeout such as `100m`, a tenth of a second. Returns `None` if it is malformed.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;

    /// Returns the `grpc-status` of a call that has this timeout and takes one second.
    async fn code(timeout: Option<&'static str>) -> Option<HeaderValue> {
        let service = tower::service_fn(async |_: Request<()>| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            request.headers_mut().insert(TIMEOUT, HeaderValue::from_static(timeout));
        }
        let response = Deadlines.layer(service).oneshot(request).await.unwrap();
        response.headers().get("grpc-status").cloned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_beyond_its_deadline_has_the_code_for_that() {
        assert_eq!(code(Some("999m")).await.unwrap(), "4");
        assert_eq!(code(Some("1001m")).await, None);
        assert_eq!(code(None).await, None);
        assert_eq!(code(Some("soon")).await, None);
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let parse = |text| parse(&HeaderValue::from_static(text));
        for (text, nanoseconds) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "1", "m", "-1S", "+1S", "1.5S", "123456789S", "1s", "1 S"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }
}
