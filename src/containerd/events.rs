//! The event stream. It has no replay: what happened while nobody listened is not told, so
//! an event is a hint and a list is the truth.

use std::time::Duration;

use containerd_client::events as ev;
use containerd_client::services::v1 as pb;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use prost::Message;
use tonic::Streaming;

use super::{Containerd, Error, Exit, Kind, Result, nanoseconds};

/// Topic of the event that shows that a subscription works.
const PROBE: &str = "/pontoon/subscribed";
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// What Pontoon listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task's init process ended.
    TaskExit {
        /// The container's id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The kernel killed a process of the task for want of memory.
    TaskOom {
        /// The container's id.
        id: String,
    },
    /// An image was made, changed or removed, by us or by somebody else.
    Image {
        /// Its name.
        name: String,
    },
}

/// An open subscription.
pub struct Events {
    stream: Streaming<Envelope>,
    namespace: String,
}

impl Containerd {
    /// Subscribes to exits, OOMs and image changes of the namespace. When it returns, no later
    /// event is missed: containerd says nothing before the first event, so one of our own is
    /// published until it comes back.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while containerd is away.
    pub async fn subscribe(&self) -> Result<Events> {
        let namespace = self.namespace();
        let topics = [PROBE, "/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete"];
        // A slash must be quoted in containerd's filters.
        let filters = topics.map(|topic| format!("topic==\"{topic}\",namespace==\"{namespace}\"")).to_vec();
        let mut client = EventsClient::new(self.watch.clone());
        let reply = tokio::select! {
            reply = client.subscribe(self.request(pb::SubscribeRequest { filters })) => reply,
            failed = self.probe() => Err(failed),
        };
        let reply = reply.map_err(|status| Error::status("subscribe to events of", namespace, &status))?;
        Ok(Events { stream: reply.into_inner(), namespace: namespace.to_owned() })
    }

    /// Publishes an event of no meaning again and again; gives only the error of doing so.
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
    /// The next event that Pontoon listens to.
    ///
    /// # Errors
    /// The stream has ended; subscribe again, then list.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let message = self.stream.message().await;
            let envelope = message.map_err(|status| Error::status("read events of", &self.namespace, &status))?;
            let Some(envelope) = envelope else {
                return Err(Error::new("read events of", &self.namespace, Kind::Unavailable, "the stream ended"));
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
            // The exit of an exec process has another id than its container.
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
