//! An in-memory index of containerd's image records, kept up to date by events and by our own operations. Two reads of
//! the same record may finish in a different order than they started. Each read draws a ticket before it starts, so
//! that the result of an older read never replaces that of a newer one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Error;
use super::image::Image;
use super::manifest::Contents;
use super::reference::{Reference, is_digest};
use crate::mutex::{Mutex, MutexGuard};

/// What a name meant when its record was read.
#[derive(Clone)]
pub(super) struct IndexEntry {
    /// Digest of the record's target; it shows whether the name has moved.
    pub(super) target: String,
    pub(super) contents: Arc<Contents>,
    pub(super) pinned: bool,
}

/// The order in which reads started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Default)]
pub(super) struct Index {
    // Locked for map lookups only: lists never wait for a read from containerd.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tickets: u64,
    /// How many reads are in progress; while it is 0, no older read can finish late.
    reading: usize,
    names: HashMap<String, IndexEntry>,
    /// The last ticket that changed each name, including names that were removed.
    applied: HashMap<String, Ticket>,
    images: BTreeMap<String, Arc<Image>>,
}

impl Index {
    /// Draws a ticket. To be called before a record is read; the ticket goes to [`Index::apply`], [`Index::apply_all`]
    /// or [`Index::abandon`].
    pub(super) fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        state.tickets += 1;
        state.reading += 1;
        Ticket(state.tickets)
    }

    /// Applies the result of reading one name; `None` when the record does not exist.
    pub(super) fn apply(&self, ticket: Ticket, name: &str, found: Option<IndexEntry>) {
        let mut state = self.lock();
        state.set(ticket, name, found);
        state.finish();
    }

    /// Applies the result of a list: names that are not in it are removed.
    pub(super) fn apply_all(&self, ticket: Ticket, found: Vec<(String, IndexEntry)>) {
        let mut state = self.lock();
        let there: std::collections::HashSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let gone: Vec<String> = state.names.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        drop(there);
        for name in gone {
            state.set(ticket, &name, None);
        }
        for (name, entry) in found {
            state.set(ticket, &name, Some(entry));
        }
        state.finish();
    }

    /// Ends a read that failed, without a change.
    pub(super) fn abandon(&self, _ticket: Ticket) {
        self.lock().finish();
    }

    /// The contents of a target that some name already has, so that each target is read only once. Contents that could
    /// not be read completely are not returned, and so are read again: a pull may have fetched what was missing.
    pub(super) fn contents(&self, target: &str) -> Option<Arc<Contents>> {
        let state = self.lock();
        let known = state.names.values().find(|entry| entry.target == target).map(|entry| &entry.contents);
        known.filter(|contents| contents.is_whole()).map(Arc::clone)
    }

    /// All images, ordered by id.
    pub(super) fn all(&self) -> Vec<Arc<Image>> {
        self.lock().images.values().cloned().collect()
    }

    /// All images that have a name in a repository, ordered by id.
    pub(super) fn of_repository(&self, repository: &str) -> Vec<Arc<Image>> {
        let state = self.lock();
        let within = |name: &str| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']));
        state.images.values().filter(|image| image.names.iter().any(|name| within(name))).cloned().collect()
    }

    /// Finds an image by name, reference, id, or an unambiguous prefix of an id.
    pub(super) fn resolve(&self, text: &str) -> Result<Arc<Image>, Error> {
        let state = self.lock();
        if let Some(image) = state.images.get(text).or_else(|| state.by_name(text)) {
            return Ok(Arc::clone(image));
        }
        let normal = Reference::parse(text).ok().map(|reference| reference.to_string());
        if let Some(image) = normal.and_then(|name| state.by_name(&name)) {
            return Ok(Arc::clone(image));
        }
        state.by_prefix(text).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn set(&mut self, ticket: Ticket, name: &str, found: Option<IndexEntry>) {
        if self.applied.get(name).is_some_and(|applied| *applied > ticket) {
            return;
        }
        self.applied.insert(name.to_owned(), ticket);
        let old = match found {
            Some(entry) => {
                let id = entry.contents.id.clone();
                let old = self.names.insert(name.to_owned(), entry);
                self.rebuild(&id);
                old
            }
            None => self.names.remove(name),
        };
        if let Some(old) = old {
            self.rebuild(&old.contents.id.clone());
        }
    }

    /// Rebuilds the image of an id from the names that point to it.
    fn rebuild(&mut self, id: &str) {
        let of_it = self.names.iter().filter(|(_, entry)| entry.contents.id == id);
        let (mut names, mut pinned, mut contents) = (Vec::new(), false, None);
        for (name, entry) in of_it {
            names.push(name.clone());
            pinned |= entry.pinned;
            // Another client may have deleted or restored a document between the reads of two names: complete contents
            // win.
            if contents.as_ref().is_none_or(|known: &Arc<Contents>| !known.is_whole()) {
                contents = Some(Arc::clone(&entry.contents));
            }
        }
        match contents {
            Some(contents) => {
                self.images.insert(id.to_owned(), Arc::new(Image::new(&contents, names, pinned)));
            }
            None => {
                self.images.remove(id);
            }
        }
    }

    fn finish(&mut self) {
        self.reading = self.reading.saturating_sub(1);
        if self.reading == 0 {
            self.applied.clear();
        }
    }

    fn by_name(&self, name: &str) -> Option<&Arc<Image>> {
        self.images.get(&self.names.get(name)?.contents.id)
    }

    fn by_prefix(&self, text: &str) -> Result<&Arc<Image>, Error> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let missing = || Error::NotFound(text.to_owned());
        if hex.is_empty() || is_digest(text) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let start = format!("sha256:{hex}");
        let mut matches = self.images.range(start.clone()..).take_while(|(id, _)| id.starts_with(&start));
        match (matches.next(), matches.next()) {
            (Some((_, image)), None) => Ok(image),
            (None, _) => Err(missing()),
            (Some(_), Some(_)) => Err(Error::image(format!("{text:?} is the beginning of more than one image id"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::contents;
    use super::*;

    fn entry(id: &str) -> IndexEntry {
        IndexEntry { target: format!("target of {id}"), contents: Arc::new(contents(id, "")), pinned: false }
    }

    fn id(start: &str) -> String {
        format!("sha256:{start:0<64}")
    }

    fn index(names: &[(&str, &str)]) -> Index {
        let index = Index::default();
        for (name, id) in names {
            index.apply(index.ticket(), name, Some(entry(id)));
        }
        index
    }

    #[test]
    fn one_id_is_one_image_with_all_its_names() {
        let a = id("a");
        let index = index(&[("docker.io/library/x:latest", &a), ("r.example/y:t", &a), (&a, &a)]);
        let all = index.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].tags, ["docker.io/library/x:latest", "r.example/y:t"]);
    }

    #[test]
    fn an_image_is_found_by_all_that_means_it() {
        let (a, b) = (id("abc1"), id("abc2"));
        let digest = format!("r.example/y@{}", id("d"));
        let index = index(&[("docker.io/library/x:latest", &a), (&digest, &a), (&b, &b)]);
        for text in ["x", "x:latest", "docker.io/library/x", &digest, &a, "abc1", "sha256:abc1"] {
            assert_eq!(index.resolve(text).unwrap().id, a, "{text}");
        }
        assert!(matches!(index.resolve("abc"), Err(Error::Invalid { .. })), "ambiguous");
        for text in ["y", "abd", "", "../x", "x:2"] {
            assert!(matches!(index.resolve(text), Err(Error::NotFound(_))), "{text}");
        }
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_without_it() {
        let (a, b) = (id("a"), id("b"));
        let index = index(&[("x:t", &a), (&a, &a), ("x:t", &b)]);
        assert_eq!(index.resolve(&a).unwrap().tags, Vec::<String>::new());
        assert_eq!(index.resolve(&b).unwrap().tags, ["x:t"]);
    }

    #[test]
    fn an_older_read_that_comes_late_changes_nothing() {
        let a = id("a");
        let index = Index::default();
        let (old, new) = (index.ticket(), index.ticket());
        index.apply(new, "x:t", None);
        index.apply(old, "x:t", Some(entry(&a)));
        assert!(index.all().is_empty());
        index.apply(index.ticket(), "x:t", Some(entry(&a)));
        assert_eq!(index.all().len(), 1);
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_have_unless_that_is_newer() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let index = index(&[("x:t", &a)]);
        let list = index.ticket();
        index.apply(index.ticket(), "y:t", Some(entry(&b)));
        index.apply_all(list, vec![("z:t".to_owned(), entry(&c))]);
        let ids: Vec<String> = index.all().iter().map(|image| image.id.clone()).collect();
        assert_eq!(ids, [b, c]);
    }
}
