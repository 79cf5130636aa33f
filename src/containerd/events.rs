//! The event stream. It has no replay: events that happen while there is no subscription are lost. So an event is only
//! a hint, and a list is the truth.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::events as ev;
use containerd_client::services::v1 as pb;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use prost::Message;
use tonic::Streaming;

use super::{Containerd, Error, Exit, Result, nanoseconds};

/// Topic of the event that proves that a subscription works.
const PROBE: &str = "/pontoon/subscribed";
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The events that Pontoon handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task's init process ended.
    TaskExit {
        /// The container's id.
        id: String,
        exit: Exit,
    },
    /// The kernel killed a process of the task because it was out of memory.
    TaskOom {
        /// The container's id.
        id: String,
    },
    /// An image record was created, changed or removed, by us or by another client.
    Image {
        /// The record's name.
        name: String,
    },
}

/// An open subscription.
pub struct Events {
    stream: Streaming<Envelope>,
    socket: Arc<Path>,
    namespace: String,
}

impl Containerd {
    /// Subscribes to exits, OOM kills and image changes of the namespace. When this returns, no later event is missed:
    /// containerd sends nothing before the first event, so we publish one of our own until it comes back.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] while containerd does not respond.
    pub async fn subscribe(&self) -> Result<Events> {
        let namespace = self.namespace();
        let topics = [PROBE, "/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete"];
        // A value with a slash must be quoted in containerd's filters.
        let filters = topics.map(|topic| format!("topic==\"{topic}\",namespace==\"{namespace}\"")).to_vec();
        let mut client = EventsClient::new(self.watch.clone());
        let reply = tokio::select! {
            reply = client.subscribe(self.request(pb::SubscribeRequest { filters })) => reply,
            failed = self.probe() => Err(failed),
        };
        let reply = reply.map_err(|status| self.error("subscribe to events of", namespace, &status))?;
        Ok(Events { stream: reply.into_inner(), socket: Arc::clone(&self.socket), namespace: namespace.to_owned() })
    }

    /// Publishes an event without a meaning again and again; returns only when that fails.
    async fn probe(&self) -> tonic::Status {
        let mut client = EventsClient::new(self.unary.channel());
        loop {
            let event = prost_types::Any { type_url: "google.protobuf.Empty".to_owned(), value: Vec::new() };
            let request = pb::PublishRequest { topic: PROBE.to_owned(), event: Some(event) };
            if let Err(status) = client.publish(self.request(request)).await {
                return status;
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}

impl Events {
    /// The next event that Pontoon handles.
    ///
    /// # Errors
    /// When the stream has ended: subscribe again, then list.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let message = self.stream.message().await;
            let envelope =
                message.map_err(|status| Error::status(&self.socket, "read events of", &self.namespace, &status))?;
            let Some(envelope) = envelope else {
                let reason = "the event stream ended";
                return Err(Error::unanswered(&self.socket, "read events of", &self.namespace, reason));
            };
            if let Some(event) = decode(envelope) {
                return Ok(event);
            }
        }
    }
}

fn decode(envelope: Envelope) -> Option<Event> {
    let body = envelope.event?.value;
    let body = body.as_slice();
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = ev::TaskExit::decode(body).ok()?;
            // The exit of an exec process has an id that differs from its container's.
            (exit.id == exit.container_id).then(|| Event::TaskExit {
                id: exit.container_id,
                exit: Exit { code: exit.exit_status, at: nanoseconds(exit.exited_at) },
            })
        }
        "/tasks/oom" => Some(Event::TaskOom { id: ev::TaskOom::decode(body).ok()?.container_id }),
        "/images/create" => Some(Event::Image { name: pb::ImageCreate::decode(body).ok()?.name }),
        "/images/update" => Some(Event::Image { name: pb::ImageUpdate::decode(body).ok()?.name }),
        "/images/delete" => Some(Event::Image { name: pb::ImageDelete::decode(body).ok()?.name }),
        _ => None,
    }
}
