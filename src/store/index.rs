//! Objects of one kind by id, short id and name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// What an [`Index`] holds.
pub trait Object {
    /// The id, unique for ever.
    fn id(&self) -> &str;
    /// The name, unique while the object is listed.
    fn name(&self) -> String;
}

/// Objects of one kind. Readers take the snapshot of the moment; writers replace it.
pub struct Index<T> {
    snapshot: ArcSwap<Snapshot<T>>,
    /// Held only while a writer makes the next snapshot.
    writer: Mutex<()>,
}

/// What an [`Index`] holds at one moment.
pub struct Snapshot<T> {
    by_id: BTreeMap<String, Arc<T>>,
    by_name: HashMap<String, Arc<T>>,
}

/// What a short id stands for.
#[derive(Debug)]
pub enum Lookup<T> {
    /// One object.
    Found(Arc<T>),
    /// None.
    Missing,
    /// More than one: the id is too short.
    Ambiguous,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        let empty = Snapshot { by_id: BTreeMap::new(), by_name: HashMap::new() };
        Self { snapshot: ArcSwap::from_pointee(empty), writer: Mutex::new(()) }
    }
}

impl<T> Snapshot<T> {
    /// All objects, by id.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_id.values()
    }
}

impl<T: Object> Index<T> {
    /// Lists an object.
    pub fn insert(&self, object: Arc<T>) {
        self.change(|next| {
            next.by_name.insert(object.name(), Arc::clone(&object));
            next.by_id.insert(object.id().to_owned(), Arc::clone(&object));
        });
    }

    /// Unlists an object; one that is not listed is fine.
    pub fn remove(&self, id: &str) {
        self.change(|next| {
            let Some(object) = next.by_id.remove(id) else { return };
            let name = object.name();
            // Two damaged records may share a name; the other one keeps it.
            if next.by_name.get(&name).is_some_and(|named| named.id() == id) {
                next.by_name.remove(&name);
            }
        });
    }

    /// The object of a whole id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<T>> {
        self.snapshot.load().by_id.get(id).cloned()
    }

    /// The object of an id or of its unambiguous beginning. An empty id matches nothing.
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

    /// The object of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<T>> {
        self.snapshot.load().by_name.get(name).cloned()
    }

    /// All objects, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.snapshot.load().objects().cloned().collect()
    }

    /// What it holds now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.snapshot.load_full()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot<T>)) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
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
