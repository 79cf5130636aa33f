//! How the verbs announce what has happened to a sandbox or a container, to it and to the subscribers of GetContainerEvents.

use std::sync::Arc;

use crate::container::{self, Container};
use crate::events::{Happening, Kind};
use crate::runtime::Node;
use crate::sandbox::Sandbox;

impl Node {
    /// Tells a container what happened to it, and subscribers what they should know of it.
    ///
    /// # Errors
    /// [`container::Denied`] when its state does not allow it.
    pub(crate) fn happened(&self, container: &Container, event: container::Event) -> Result<(), container::Denied> {
        use container::Event;
        let kind = match event {
            Event::Started { .. } => Some(Kind::Started),
            Event::Ended(_) => Some(Kind::Stopped),
            Event::Start | Event::RemoveRequested => None,
        };
        let changed = container.on(event)?;
        if let Some(kind) = kind.filter(|_| changed) {
            self.tell_of_container(container, kind);
        }
        Ok(())
    }

    /// Tells subscribers of a container.
    pub(crate) fn tell_of_container(&self, container: &Container, kind: Kind) {
        self.events.tell(|| {
            let sandbox = self.store.sandbox(container.sandbox())?;
            Some(Happening { kind, id: container.id().as_str().into(), sandbox })
        });
    }

    /// Tells subscribers of a sandbox.
    pub(crate) fn tell_of_sandbox(&self, sandbox: &Arc<Sandbox>, kind: Kind) {
        self.events.tell(|| Some(Happening::of_sandbox(kind, sandbox)));
    }

    /// Tells subscribers, once, that a listed sandbox has ended. Who lists it, who sees its pause process end and who stops
    /// it all may be the first to know; nothing may come after its deletion, which would bring it back for kubelet.
    pub(crate) fn tell_of_end(&self, sandbox: &Arc<Sandbox>) {
        if self.store.sandbox(sandbox.id()).is_some() && sandbox.end_is_news() {
            self.tell_of_sandbox(sandbox, Kind::Stopped);
        }
    }
}
