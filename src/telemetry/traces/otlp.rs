//! OTLP over gRPC. With each call, kubelet sends the span that the call belongs to (W3C `traceparent`) and whether it
//! is sampled.

use std::future::Future;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;

use super::{Error, SpanLayer, TARGET};
use crate::telemetry::Stage;

/// The connection to the collector.
#[derive(Debug)]
pub struct Export(SdkTracerProvider);

impl Export {
    /// Sends the remaining spans; gives up after some seconds.
    pub async fn end(self) {
        // `shutdown` blocks until the exporter's own thread has ended.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || self.0.shutdown()).await {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// A layer that sends spans to `endpoint` (`http://IP:PORT`), and the handle that ends it; `None` for an empty
/// endpoint. Of the calls without a `traceparent`, `per_million` in a million are sampled. Must be called within the
/// runtime.
///
/// # Errors
/// When the endpoint is no valid address. If the collector does not answer, spans are lost, and nothing else fails.
pub fn export(endpoint: &str, per_million: u32) -> Result<Option<(SpanLayer, Export)>, Error> {
    if endpoint.is_empty() {
        return Ok(None);
    }
    let fails = |reason: String| Error { endpoint: endpoint.to_owned(), reason };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| fails(error.to_string()))?;
    let of_our_own = Sampler::TraceIdRatioBased(f64::from(per_million) / 1e6);
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(of_our_own)))
        .with_resource(Resource::builder().with_service_name("pontoon").build())
        .build();
    // The source location of a span does not help a reader who looks at how a pod started.
    let layer = tracing_opentelemetry::layer().with_location(false).with_threads(false).with_target(false);
    let layer = layer.with_tracked_inactivity(false).with_tracer(provider.tracer("pontoon"));
    let layer = layer.with_filter(Targets::new().with_target(TARGET, tracing::Level::INFO));
    Ok(Some((Box::new(layer), Export(provider))))
}

/// The span of a gRPC call, named like `runtime.v1.RuntimeService/RunPodSandbox`.
pub(in crate::telemetry) fn of_call(headers: &HeaderMap, path: &str) -> Span {
    let name = path.trim_start_matches('/');
    let span = tracing::info_span!(target: TARGET, "call", otel.name = name, otel.kind = "server");
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    // Fails when no layer collects spans.
    let _ = span.set_parent(parent);
    span
}

/// Runs `work` in a span of the stage, below the span of the call that began it.
pub(in crate::telemetry) fn in_stage<F: Future>(stage: Stage, work: F) -> impl Future<Output = F::Output> {
    work.instrument(tracing::info_span!(target: TARGET, "stage", otel.name = stage.name()))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};

    use futures_util::future::BoxFuture;
    use http::{Request, Response};
    use hyper::body::{Body as _, Bytes, Frame};
    use std::task::{Context, Poll};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::body::Body;
    use tracing::instrument::WithSubscriber;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Answers every export with success, and stores what it received.
    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Vec<u8>>>);

    impl tonic::server::NamedService for Collector {
        const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
    }

    impl tower::Service<Request<Body>> for Collector {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let kept = Arc::clone(&self.0);
            Box::pin(async move {
                let mut body = request.into_body();
                while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                    let Ok(Ok(data)) = frame.map(Frame::into_data) else { continue };
                    kept.lock().unwrap().extend_from_slice(&data);
                }
                let body = Body::new(Answer(vec![
                    Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])),
                    Frame::data(Bytes::from_static(&[0; 5])),
                ]));
                Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
            })
        }
    }

    /// Frames in reverse order: the last one is sent first.
    struct Answer(Vec<Frame<Bytes>>);

    impl hyper::body::Body for Answer {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    fn has(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    /// What the collector receives for a call with this `traceparent`.
    async fn exported(traceparent: Option<&str>) -> Vec<u8> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::default();
        let server = tonic::transport::Server::builder().add_service(collector.clone());
        crate::tasks::Tasks::default().background(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let (layer, export) = export(&endpoint, 0).unwrap().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent", traceparent.parse().unwrap());
        }
        let call = async {
            let span = of_call(&headers, "/runtime.v1.RuntimeService/RunPodSandbox");
            crate::telemetry::during(Stage::Cni, async {}).instrument(span).await;
        };
        call.with_subscriber(tracing_subscriber::registry().with(layer)).await;
        export.end().await;
        collector.0.lock().unwrap().clone()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_is_a_child_of_its_clients_span() {
        let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let bytes = exported(Some(sampled)).await;
        assert!(has(&bytes, b"runtime.v1.RuntimeService/RunPodSandbox") && has(&bytes, b"cni"), "{bytes:?}");
        assert!(has(&bytes, &0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()), "its trace");
        assert!(has(&bytes, &0xb7ad_6b71_6920_3331_u64.to_be_bytes()), "its parent");
        assert!(has(&bytes, b"pontoon"), "whose they are");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_client_does_not_sample_is_not_sent() {
        let not_sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(exported(Some(not_sampled)).await, b"");
        assert_eq!(exported(None).await, b"", "nor what nobody asks for");
    }

    #[test]
    fn no_endpoint_is_no_exporter() {
        assert!(export("", 1_000_000).unwrap().is_none());
    }
}
