//! How a new container enters the store, and how it is taken back if its creation failed or no client claimed it.

use std::sync::{Arc, OnceLock};

use crate::container::{Container, Event};
use crate::events::Kind;
use crate::log_keys::LogKeys;
use crate::runtime::rollback::Creatable;
use crate::runtime::{Node, Repeatable};
use crate::store::ListTarget;
use crate::undo::Undo;

impl ListTarget<Container> for Node {
    fn list(&self, container: &Arc<Container>) {
        self.store.containers.insert(Arc::clone(container));
        self.announce_container(container, Kind::Created);
    }

    async fn roll_back(self: Arc<Self>, container: Arc<Container>, undo: Undo) {
        self.roll_back_unclaimed(container, undo).await;
    }
}

impl Creatable for Container {
    const KIND: &str = "container";

    fn id(&self) -> &str {
        self.record.id.as_str()
    }

    fn keys(&self) -> &LogKeys {
        self.log_keys(LogKeys::default)
    }

    fn operations(&self) -> [Repeatable; 2] {
        [Repeatable::RemoveContainer(self.record.id.clone()), Repeatable::StopContainer(self.record.id.clone())]
    }

    fn creation_error(&self) -> &OnceLock<Box<str>> {
        &self.creation_error
    }

    fn list(self: &Arc<Self>, node: &Node) {
        // A removal is always allowed in the state Created, and from then on the container cannot be started.
        let _ = node.apply_event(self, Event::RemoveRequested);
        ListTarget::list(node, self);
    }

    fn forget(self: &Arc<Self>, node: &Node) {
        let id = self.record.id.as_str();
        node.store.containers.remove(id);
        node.announce_container(self, Kind::Deleted);
        node.owner.hints.forget(id);
    }
}
