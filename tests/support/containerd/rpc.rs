//! gRPC without generated servers, which containerd-client lacks. Requests are dispatched by their path, and each
//! connection can be broken separately.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::faults::{Done, Fault, Outage, injected};
use super::{Inner, status};

/// containerd's default, for requests and replies.
const MESSAGE_LIMIT: usize = 16 << 20;

pub(super) type Response = http::Response<tonic::body::Body>;
/// The messages of a streamed reply.
pub(super) type Messages<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// A call, and the connection on which it came.
pub(super) struct Request {
    fake: Arc<Inner>,
    connection: CancellationToken,
    /// `package.Service`.
    service: String,
    method: String,
    http: http::Request<Incoming>,
}

/// Accepts connections until `stop` is cancelled. Then all connections break.
pub(super) fn listen(socket: &Path, fake: &Arc<Inner>, stop: CancellationToken) {
    let listener = UnixListener::bind(socket).unwrap();
    let fake = Arc::clone(fake);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            tokio::spawn(connection(stream, Arc::clone(&fake), stop.child_token()));
        }
    });
}

async fn connection(stream: UnixStream, fake: Arc<Inner>, alive: CancellationToken) {
    let broken = alive.clone();
    let service = service_fn(move |http: http::Request<Incoming>| {
        let (fake, connection) = (Arc::clone(&fake), alive.clone());
        let path = http.uri().path().trim_start_matches('/').to_owned();
        let (service, method) = path.split_once('/').unwrap_or((path.as_str(), ""));
        let request = Request { fake, connection, service: service.to_owned(), method: method.to_owned(), http };
        async move { Ok::<_, Infallible>(super::serve(request).await) }
    });
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        () = broken.cancelled() => {}
        _ = serving => broken.cancel(),
    }
}

impl Request {
    pub(super) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    /// A unary call that is answered at once.
    pub(super) async fn unary<Q, R>(
        self,
        object: fn(&Q) -> String,
        handle: fn(&Arc<Inner>, Q) -> Result<R, Status>,
    ) -> Response
    where
        Q: Message + Default + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        self.unary_async(object, move |fake, message| std::future::ready(handle(&fake, message))).await
    }

    /// A unary call that may take time.
    pub(super) async fn unary_async<Q, R, F>(
        self,
        object: fn(&Q) -> String,
        handle: impl Fn(Arc<Inner>, Q) -> F + Copy + Send,
    ) -> Response
    where
        Q: Message + Default + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
        F: Future<Output = Result<R, Status>> + Send,
    {
        let name = self.name();
        let (fake, connection) = (&self.fake, &self.connection);
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let name = name.clone();
            async move {
                let message = request.into_inner();
                let object = object(&message);
                let after = apply_fault(fake, &name, object.clone(), connection).await?;
                let reply = handle(Arc::clone(fake), message).await.and_then(within_limit);
                match after {
                    AfterCall::Reply => return reply.map(tonic::Response::new),
                    AfterCall::LoseReply => connection.cancel(),
                    AfterCall::GoAway(outage) => {
                        if outage.done == Done::Missed {
                            fake.miss_start(&object);
                        }
                        fake.go_away(outage);
                    }
                }
                std::future::pending().await
            }
        });
        grpc::<R, Q>().unary(service, self.http).await
    }

    /// A call with a stream of replies.
    pub(super) async fn streaming<Q, R>(
        self,
        object: fn(&Q) -> String,
        handle: fn(&Arc<Inner>, Q) -> Result<Messages<R>, Status>,
    ) -> Response
    where
        Q: Message + Default + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let name = self.name();
        let (fake, connection) = (&self.fake, &self.connection);
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let name = name.clone();
            async move {
                let message = request.into_inner();
                apply_fault(fake, &name, object(&message), connection).await?;
                let messages = handle(fake, message)?;
                Ok(tonic::Response::new(messages.map(|message| within_limit(message?))))
            }
        });
        grpc::<R, Q>().server_streaming(service, self.http).await
    }

    /// For methods that no test needs yet.
    pub(super) fn unimplemented(self) -> Response {
        status(Code::Unimplemented, &format!("the fake has no {}", self.name())).into_http()
    }

    /// `Service/Method`.
    fn name(&self) -> String {
        format!("{}/{}", self.service.rsplit('.').next().unwrap_or_default(), self.method)
    }
}

/// A codec with containerd's limit on message sizes.
fn grpc<R, Q>() -> Grpc<ProstCodec<R, Q>>
where
    Q: Message + Default + Send + Sync + 'static,
    R: Message + Default + Send + Sync + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}

/// Returns the error that grpc-go sends if the message is too large.
fn within_limit<R: Message>(message: R) -> Result<R, Status> {
    let length = message.encoded_len();
    if length > MESSAGE_LIMIT {
        let said = format!("trying to send message larger than max ({length} vs. {MESSAGE_LIMIT})");
        return Err(status(Code::ResourceExhausted, &said));
    }
    Ok(message)
}

/// What follows a call that was carried out.
enum AfterCall {
    Reply,
    LoseReply,
    GoAway(Outage),
}

/// Applies the injected fault of a call, if there is one.
async fn apply_fault(
    fake: &Arc<Inner>,
    method: &str,
    object: String,
    connection: &CancellationToken,
) -> Result<AfterCall, Status> {
    match fake.faults.note(method, object) {
        None => Ok(AfterCall::Reply),
        Some(Fault::Error(code)) => Err(injected(code)),
        Some(Fault::LoseReply) => Ok(AfterCall::LoseReply),
        Some(Fault::Outage(outage)) if outage.done != Done::No => Ok(AfterCall::GoAway(outage)),
        Some(Fault::Outage(outage)) => {
            fake.go_away(outage);
            std::future::pending().await
        }
        Some(Fault::Disconnect) => {
            connection.cancel();
            std::future::pending().await
        }
        Some(Fault::Hang(gate)) => tokio::select! {
            biased;
            // A call that hung in a containerd that died is not carried out by the next one.
            () = connection.cancelled() => Err(injected(Code::Unavailable)),
            () = gate.pass() => Ok(AfterCall::Reply),
        },
    }
}
