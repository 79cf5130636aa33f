//! How the verbs report what has happened to a sandbox or a container: to the object, and to the subscribers of
//! GetContainerEvents.

use std::sync::Arc;

use crate::container::{self, Container};
use crate::events::{Kind, ObjectEvent};
use crate::runtime::Node;
use crate::sandbox::Sandbox;

impl Node {
    /// Applies an event to a container, and sends subscribers what they should know about it.
    ///
    /// # Errors
    /// [`container::Denied`] if the container's state does not allow the event.
    pub(crate) fn apply_event(&self, container: &Container, event: container::Event) -> Result<(), container::Denied> {
        use container::Event;
        let kind = match event {
            Event::Started { .. } => Some(Kind::Started),
            Event::Ended(_) => Some(Kind::Stopped),
            Event::Start | Event::RemoveRequested => None,
        };
        let changed = container.on(event)?;
        if let Some(kind) = kind.filter(|_| changed) {
            self.announce_container(container, kind);
        }
        Ok(())
    }

    /// Sends subscribers what has happened to a container.
    pub(crate) fn announce_container(&self, container: &Container, kind: Kind) {
        self.events.send(|| {
            let sandbox = self.store.sandbox(container.sandbox())?;
            Some(ObjectEvent { kind, id: container.id().as_str().into(), sandbox })
        });
    }

    /// Sends subscribers what has happened to a sandbox.
    pub(crate) fn announce_sandbox(&self, sandbox: &Arc<Sandbox>, kind: Kind) {
        self.events.send(|| Some(ObjectEvent::of_sandbox(kind, sandbox)));
    }

    /// Notifies subscribers, once, that a sandbox in the store has ended. Three callers may be the first to know: the
    /// one that adds it to the store, the one that sees its pause process end, and the one that stops it. Nothing may
    /// be sent after its deletion, or kubelet would believe that it exists again.
    pub(crate) fn announce_end(&self, sandbox: &Arc<Sandbox>) {
        if self.store.sandbox(sandbox.id()).is_some() && sandbox.claim_end_event() {
            self.announce_sandbox(sandbox, Kind::Stopped);
        }
    }
}
