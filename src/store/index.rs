//! Objects of one kind, indexed by id, id prefix and name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mutex::Mutex;

/// An object that an [`Index`] can hold.
pub trait Object {
    /// The id, which is never reused.
    fn id(&self) -> &str;
    /// The name, which is unique while the object is in the index.
    fn name(&self) -> String;
}

/// Objects of one kind. Readers load the current snapshot; writers replace it.
pub struct Index<T> {
    snapshot: ArcSwap<Snapshot<T>>,
    /// Locked only while a writer creates the next snapshot.
    writer: Mutex<()>,
}

/// The content of an [`Index`] at one moment.
pub struct Snapshot<T> {
    by_id: BTreeMap<String, Arc<T>>,
    by_name: HashMap<String, Arc<T>>,
}

/// The result of a lookup by id prefix.
#[derive(Debug)]
pub enum Lookup<T> {
    /// Exactly one object matches.
    Found(Arc<T>),
    /// No object matches.
    Missing,
    /// Several objects match: the prefix is too short.
    Ambiguous,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        let empty = Snapshot { by_id: BTreeMap::new(), by_name: HashMap::new() };
        Self { snapshot: ArcSwap::from_pointee(empty), writer: Mutex::new(()) }
    }
}

impl<T> Snapshot<T> {
    /// All objects, ordered by id.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_id.values()
    }
}

impl<T: Object> Index<T> {
    /// Adds an object.
    pub fn insert(&self, object: Arc<T>) {
        self.change(|next| {
            next.by_name.insert(object.name(), Arc::clone(&object));
            next.by_id.insert(object.id().to_owned(), Arc::clone(&object));
        });
    }

    /// Removes an object, if it is in the index.
    pub fn remove(&self, id: &str) {
        self.change(|next| {
            let Some(object) = next.by_id.remove(id) else { return };
            let name = object.name();
            // If another damaged record has the same name, it keeps the name.
            if next.by_name.get(&name).is_some_and(|named| named.id() == id) {
                next.by_name.remove(&name);
            }
        });
    }

    /// The object with this full id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<T>> {
        self.snapshot.load().by_id.get(id).cloned()
    }

    /// The object with this id, or the only one whose id starts with it. An empty id matches nothing.
    #[must_use]
    pub fn find(&self, id: &str) -> Lookup<T> {
        if id.is_empty() {
            return Lookup::Missing;
        }
        let snapshot = self.snapshot.load();
        let mut matches = snapshot.by_id.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
        match (matches.next(), matches.next()) {
            (None, _) => Lookup::Missing,
            (Some((_, object)), None) => Lookup::Found(Arc::clone(object)),
            (Some((key, object)), Some(_)) if key == id => Lookup::Found(Arc::clone(object)),
            (Some(_), Some(_)) => Lookup::Ambiguous,
        }
    }

    /// The object with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<T>> {
        self.snapshot.load().by_name.get(name).cloned()
    }

    /// All objects, ordered by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.snapshot.load().objects().cloned().collect()
    }

    /// The current content.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.snapshot.load_full()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot<T>)) {
        let _writer = self.writer.lock();
        let current = self.snapshot.load();
        let mut next = Snapshot { by_id: current.by_id.clone(), by_name: current.by_name.clone() };
        change(&mut next);
        self.snapshot.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Thing(&'static str);

    impl Object for Thing {
        fn id(&self) -> &str {
            self.0
        }

        fn name(&self) -> String {
            format!("name of {}", self.0)
        }
    }

    fn index() -> Index<Thing> {
        let index = Index::default();
        for id in ["ab1", "ab2", "c"] {
            index.insert(Arc::new(Thing(id)));
        }
        index
    }

    #[test]
    fn a_short_id_must_match_one_object_only() {
        let index = index();
        assert!(matches!(index.find("c"), Lookup::Found(thing) if thing.0 == "c"));
        assert!(matches!(index.find("ab2"), Lookup::Found(thing) if thing.0 == "ab2"));
        assert!(matches!(index.find("ab"), Lookup::Ambiguous));
        assert!(matches!(index.find("x"), Lookup::Missing));
        assert!(matches!(index.find(""), Lookup::Missing));
    }

    #[test]
    fn what_is_removed_is_found_by_no_way() {
        let index = index();
        index.remove("c");
        index.remove("c");
        assert!(index.get("c").is_none() && index.named("name of c").is_none());
        assert_eq!(index.all().len(), 2);
    }
}
