//! One tower layer for both gRPC edges. It sees the path, the status code and the duration of a call, and never its
//! messages.
//!
//! The status code is in the response's headers (for an error without a message), or in the trailers after the body. So
//! the layer follows the body to its end, which for a streamed response is the end of the stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument;

use super::traces;

/// The header and trailer with the status code.
const STATUS: &str = "grpc-status";
/// The names of gRPC's status codes, by number, as go-grpc and its dashboards spell them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The name of a gRPC status code; `Unknown` for a number that is not one.
#[must_use]
pub fn code_name(number: usize) -> &'static str {
    CODES.get(number).copied().unwrap_or("Unknown")
}

type Recorder = dyn Fn(&str, &'static str, Duration) + Send + Sync;

/// What to do with measured calls. The default is nothing.
#[derive(Clone, Default)]
pub struct Measure {
    record: Option<Arc<Recorder>>,
    /// Whether each call gets a span, as a child of the client's span.
    spans: bool,
}

impl Measure {
    /// Calls `record` for each call with its path, the name of its status code, and its duration.
    pub fn with(record: impl Fn(&str, &'static str, Duration) + Send + Sync + 'static) -> Self {
        Self { record: Some(Arc::new(record)), spans: false }
    }

    /// Also creates a span for each call.
    #[must_use]
    pub fn and_spans(self) -> Self {
        Self { spans: true, ..self }
    }
}

impl fmt::Debug for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measure").field("on", &self.record.is_some()).field("spans", &self.spans).finish()
    }
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, measure: self.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    measure: Measure,
}

impl<S> Measured<S> {
    /// Replaces how the service is measured.
    #[must_use]
    pub fn with(self, measure: Measure) -> Self {
        Self { measure, ..self }
    }
}

impl<S, B> Service<Request<B>> for Measured<S>
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
        let span = if self.measure.spans {
            traces::of_call(request.headers(), request.uri().path())
        } else {
            tracing::Span::none()
        };
        let call = self.measure.record.as_ref().map(|record| Call::new(record, request.uri().path()));
        let response = span.in_scope(|| self.inner.call(request)).instrument(span);
        match call {
            None => Box::pin(response),
            Some(call) => Box::pin(async move {
                match response.await {
                    Ok(response) => Ok(call.follow(response)),
                    Err(error) => {
                        // The connection failed, so there is no response with a status code.
                        call.end("Unavailable");
                        Err(error)
                    }
                }
            }),
        }
    }
}

/// A call that has not ended. If it is dropped before its end, it is recorded as `Canceled`.
struct Call {
    record: Option<Arc<Recorder>>,
    path: String,
    start: Instant,
}

impl Call {
    fn new(record: &Arc<Recorder>, path: &str) -> Self {
        Self { record: Some(Arc::clone(record)), path: path.to_owned(), start: Instant::now() }
    }

    fn follow(self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code(response.headers()) {
            self.end(code);
            return response;
        }
        response.map(|body| Body::new(Followed { body, call: Some(self) }))
    }

    fn end(mut self, code: &'static str) {
        self.finish(code);
    }

    fn finish(&mut self, code: &'static str) {
        if let Some(record) = self.record.take() {
            record(&self.path, code, self.start.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish("Canceled");
    }
}

fn code(headers: &HeaderMap) -> Option<&'static str> {
    let number = headers.get(STATUS)?.to_str().ok()?.parse().ok();
    Some(number.map_or("Unknown", code_name))
}

/// A response body that is followed to its trailers.
struct Followed {
    body: Body,
    call: Option<Call>,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let ended = match &polled {
            Poll::Pending => None,
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().map(|trailers| code(trailers).unwrap_or("Unknown")),
            Poll::Ready(Some(Err(_))) => Some("Unavailable"),
            Poll::Ready(None) => Some("Unknown"),
        };
        if let Some(call) = ended.and_then(|code| Some((self.call.take()?, code))) {
            call.0.end(call.1);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use hyper::body::Body as _;

    use tower::ServiceExt;

    use super::*;

    type Seen = Arc<Mutex<Vec<(String, &'static str)>>>;

    fn measure() -> (Measure, Seen) {
        let seen = Seen::default();
        let record = Arc::clone(&seen);
        (Measure::with(move |path, code, _| record.lock().unwrap().push((path.to_owned(), code))), seen)
    }

    async fn call(measure: &Measure, response: Response<Body>) -> Response<Body> {
        let mut response = Some(response);
        let service = tower::service_fn(move |_: Request<()>| {
            let response = response.take().unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let request = Request::builder().uri("http://x/a.B/C").body(()).unwrap();
        measure.layer(service).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn an_error_has_its_code_in_the_head() {
        let (measure, seen) = measure();
        let head = Response::builder().header(STATUS, "5").body(Body::empty()).unwrap();
        drop(call(&measure, head).await);
        assert_eq!(*seen.lock().unwrap(), [("/a.B/C".to_owned(), "NotFound")]);
    }

    #[tokio::test]
    async fn a_success_ends_with_its_trailers() {
        let (measure, seen) = measure();
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(STATUS), "0".parse().unwrap())]);
        let body = Body::new(Trailers(Some(trailers)));
        let mut response = call(&measure, Response::new(body)).await;
        assert_eq!(*seen.lock().unwrap(), []);
        let body = response.body_mut();
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.unwrap().unwrap();
        assert_eq!(*seen.lock().unwrap(), [("/a.B/C".to_owned(), "OK")]);
        drop(response);
        assert_eq!(seen.lock().unwrap().len(), 1, "a call ends once");
    }

    #[tokio::test]
    async fn a_call_that_is_left_is_canceled() {
        let (measure, seen) = measure();
        let service = tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let request = Request::builder().uri("http://x/a.B/C").body(()).unwrap();
        let left = tokio::time::timeout(Duration::from_millis(1), measure.layer(service).oneshot(request)).await;
        assert!(left.is_err());
        assert_eq!(*seen.lock().unwrap(), [("/a.B/C".to_owned(), "Canceled")]);
    }

    struct Trailers(Option<HeaderMap>);

    impl hyper::body::Body for Trailers {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
        }
    }
}
