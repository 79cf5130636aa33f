//! Connections of which nothing is known yet. There is room for so many; one more takes the place of the oldest, so that
//! nobody keeps those out who come with a request: these make it at once.
//!
//! Used by the streaming port, until a connection has shown a token, and by the page of metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long one may take for TLS, and then for its request's header, while there are few.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same while more than half of the places are taken.
const LESS_PATIENCE: Duration = Duration::from_secs(2);

/// All of one listener. Clones are one.
#[derive(Clone, Debug)]
pub struct Strangers {
    most: usize,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    /// By their order of coming.
    taken: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// One's place, until it is dropped.
#[derive(Debug)]
pub struct Stranger {
    all: Strangers,
    number: u64,
    /// Somebody else has its place.
    pub displaced: CancellationToken,
    /// How long it may take for each step.
    pub patience: Duration,
}

impl Strangers {
    /// Places for so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, places: Arc::default() }
    }

    /// A place for one that has just come. The oldest loses its own when there is none left.
    #[must_use]
    pub fn enter(&self) -> Stranger {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.taken.len() >= self.most
            && let Some((_, oldest)) = places.taken.pop_first()
        {
            oldest.cancel();
        }
        let patience = if places.taken.len() < self.most / 2 { PATIENCE } else { LESS_PATIENCE };
        let (number, displaced) = (places.next, CancellationToken::new());
        places.next += 1;
        places.taken.insert(number, displaced.clone());
        Stranger { all: self.clone(), number, displaced, patience }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.places.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_takes_the_place_of_the_oldest_and_many_have_less_time() {
        let strangers = Strangers::new(256);
        let mut all: Vec<Stranger> = (0..256).map(|_| strangers.enter()).collect();
        assert_eq!((all[0].patience, all[255].patience), (PATIENCE, LESS_PATIENCE));
        drop(all.remove(1));
        let one = strangers.enter();
        assert!(!all[0].displaced.is_cancelled(), "there was a place");
        let other = strangers.enter();
        assert!(all[0].displaced.is_cancelled() && !all[1].displaced.is_cancelled());
        assert!(!one.displaced.is_cancelled() && !other.displaced.is_cancelled());
        drop((all, one, other));
        assert_eq!(strangers.places.lock().unwrap().taken.len(), 0);
    }
}
