//! How much of something may go on at once: on the node, and on one object of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts what goes on. Whoever waits gets his turn in the order of coming.
#[derive(Debug)]
pub struct Slots {
    node: Arc<Semaphore>,
    per_object: usize,
    /// Those of objects with something going on; they go with the last slot.
    objects: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Leave for one, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    _object: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Slots {
    /// None taken.
    #[must_use]
    pub fn new(on_node: usize, per_object: usize) -> Self {
        Self { node: Arc::new(Semaphore::new(on_node)), per_object, objects: Mutex::default() }
    }

    /// A slot, if one is free now.
    #[must_use]
    pub fn try_take(&self, object: &str) -> Option<Slot> {
        let object = self.object(object).try_acquire_owned().ok()?;
        let node = Arc::clone(&self.node).try_acquire_owned().ok()?;
        Some(Slot { _object: object, _node: node })
    }

    /// Waits for a slot. First for the object's: one with many waiting must not keep others from the node's.
    pub async fn take(&self, object: &str) -> Slot {
        let object = self.object(object).acquire_owned().await.expect("never closed");
        let node = Arc::clone(&self.node).acquire_owned().await.expect("never closed");
        Slot { _object: object, _node: node }
    }

    fn object(&self, object: &str) -> Arc<Semaphore> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = objects.get(object).and_then(Weak::upgrade) {
            return known;
        }
        objects.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.per_object));
        objects.insert(object.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn an_object_cannot_take_more_than_its_part() {
        let slots = Slots::new(3, 2);
        let first = (slots.try_take("a").unwrap(), slots.try_take("a").unwrap());
        assert!(slots.try_take("a").is_none());
        let third = slots.try_take("b").unwrap();
        assert!(slots.try_take("b").is_none(), "the node is full");
        drop(third);
        drop(first);
        assert!(slots.take("a").now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_for_his_object_keeps_nobody_from_the_node() {
        let slots = Slots::new(2, 1);
        let held = slots.try_take("a").unwrap();
        let mut waiting = Box::pin(slots.take("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = slots.take("b").now_or_never().unwrap();
        drop(held);
        let first = waiting.await;
        drop((first, other));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let slots = Slots::new(100, 1);
        for object in 0..50 {
            drop(slots.try_take(&object.to_string()));
        }
        assert_eq!(slots.objects.lock().unwrap().len(), 1);
    }
}
