//! The Streaming service: side channels that a Transfer call refers to by name.

use containerd_client::services::v1::StreamInit;
use containerd_client::services::v1::streaming_client::StreamingClient;
use containerd_client::to_any;
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Containerd, Error, Kind, Result};

/// How many of our messages may wait to be sent; both protocols answer one question at a time.
const QUEUE: usize = 4;

/// A named stream of messages in both directions.
pub(super) struct Stream {
    /// The name that the Transfer call contains.
    pub(super) id: String,
    send: mpsc::Sender<prost_types::Any>,
    receive: Streaming<prost_types::Any>,
}

impl Containerd {
    /// Opens a stream and waits until containerd has registered it: a Transfer that names a stream too early fails with
    /// "not found".
    pub(super) async fn open_stream(&self, purpose: &str) -> Result<Stream> {
        let id = format!("pontoon-{purpose}-{}", crate::ids::ExecId::random());
        let error = |status| self.error("open stream", purpose, &status);
        let (send, queue) = mpsc::channel(QUEUE);
        // This cannot fail: the queue is empty, and its receiver exists.
        let _ = send.try_send(to_any(&StreamInit { id: id.clone() }));
        let mut client = StreamingClient::new(self.bulk.clone()).max_decoding_message_size(super::MESSAGE_LIMIT);
        let reply = client.stream(self.request(ReceiverStream::new(queue))).await;
        let mut receive = reply.map_err(error)?.into_inner();
        if receive.message().await.map_err(error)?.is_none() {
            return Err(Error::new("open stream", purpose, Kind::Other, "it ended before it was acknowledged"));
        }
        Ok(Stream { id, send, receive })
    }
}

impl Stream {
    /// The next message of type `M`; `None` when the stream has ended, for whatever reason: the result of the Transfer
    /// call says how the transfer went.
    pub(super) async fn receive<M: Message + Name + Default>(&mut self) -> Option<M> {
        loop {
            let any = self.receive.message().await.ok()??;
            // A newer containerd may send messages that we do not know.
            if any.type_url.rsplit('/').next() == Some(M::full_name().as_str()) {
                return M::decode(any.value.as_slice()).ok();
            }
        }
    }

    /// Sends a message; it is lost if the stream has ended.
    pub(super) async fn send<M: Message + Name>(&self, message: &M) {
        let _ = self.send.send(to_any(message)).await;
    }
}
