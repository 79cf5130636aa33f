//! Limits the memory for large requests. The author of a pod decides how large its CreateContainer requests are, and
//! how many of them kubelet sends at once. Decoded, a request of many small strings takes up to ten times its encoded
//! size. A request that exceeds the budget is refused at once, and kubelet tries it again. If it waited instead, it
//! would hold the flow-control window of a connection that other calls share.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Bytes of each request that do not count. kubelet's requests are seldom larger than a few kilobytes.
const UNCOUNTED: usize = 256 << 10;
/// Limit for the bytes of all requests beyond that: two requests of the largest size.
const BUDGET: usize = 32 << 20;

/// A layer of the server that enforces the budget.
#[derive(Clone, Debug, Default)]
pub struct LargeRequests(Arc<AtomicUsize>);

impl<S> Layer<S> for LargeRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, taken: self.clone() }
    }
}

/// A service whose requests count towards the budget.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    taken: LargeRequests,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let part = Arc::new(Part { budget: self.taken.clone(), taken: AtomicUsize::new(0) });
        let counted = Arc::clone(&part);
        let answer = self.inner.call(request.map(|inner| Body::new(CountedBody { inner, size: 0, part: counted })));
        // What was decoded may be in use until the method returns.
        Box::pin(async move {
            let _part = part;
            answer.await
        })
    }
}

/// The share of the budget that a request holds until it is dropped.
#[derive(Debug)]
struct Part {
    budget: LargeRequests,
    taken: AtomicUsize,
}

impl Part {
    /// Takes more of the budget. Returns false, and takes nothing, if less than that is left.
    fn take(&self, bytes: usize) -> bool {
        let budget = &self.budget.0;
        let fits = |all: usize| all.checked_add(bytes).filter(|all| *all <= BUDGET);
        let took = budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if took {
            self.taken.fetch_add(bytes, Ordering::Relaxed);
        }
        took
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(*self.taken.get_mut(), Ordering::Relaxed);
    }
}

struct CountedBody {
    inner: Body,
    size: usize,
    part: Arc<Part>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let before = self.size.max(UNCOUNTED);
            self.size += frame.data_ref().map_or(0, Bytes::len);
            let counts = self.size.saturating_sub(before);
            if counts > 0 && !self.part.take(counts) {
                let problem = format!("large requests of {} MiB are being processed already; try again", BUDGET >> 20);
                return Poll::Ready(Some(Err(Status::resource_exhausted(problem))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a request's body, and returns the share of the budget that it holds.
    async fn read(layer: &LargeRequests, bytes: usize) -> Result<Part, Status> {
        let part = Arc::new(Part { budget: layer.clone(), taken: AtomicUsize::new(0) });
        let inner = Body::new("x".repeat(bytes));
        let mut body = CountedBody { inner, size: 0, part: Arc::clone(&part) };
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            drop(frame?);
        }
        drop(body);
        Ok(Arc::into_inner(part).unwrap())
    }

    #[tokio::test]
    async fn t10_what_is_beyond_the_budget_is_refused_and_comes_back() {
        let layer = LargeRequests::default();
        let small = read(&layer, UNCOUNTED).await.unwrap();
        assert_eq!(layer.0.load(Ordering::Relaxed), 0);
        let first = read(&layer, BUDGET).await.unwrap();
        assert_eq!(layer.0.load(Ordering::Relaxed), BUDGET - UNCOUNTED);
        let refused = read(&layer, 2 * UNCOUNTED + 1).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(read(&layer, 2 * UNCOUNTED).await.is_ok());
        drop((small, first));
        assert_eq!(layer.0.load(Ordering::Relaxed), 0);
    }
}
