//! Connections whose clients have not identified themselves yet. Their number is limited, and above it a new connection
//! displaces the oldest one. So such connections cannot lock out clients that come with a request, because those send
//! it at once.
//!
//! Used by the streaming port, for connections that have not shown a token, and by the metrics page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long a connection may take for TLS, and then for the header of its request, while there are few connections.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same limit while more than half of the allowed number are open.
const LESS_PATIENCE: Duration = Duration::from_secs(2);

/// All such connections of one listener. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Strangers {
    most: usize,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    /// By order of arrival.
    taken: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// One such connection. Dropping it makes space for another one.
#[derive(Debug)]
pub struct Stranger {
    all: Strangers,
    number: u64,
    /// Cancelled when a newer connection displaces this one.
    pub displaced: CancellationToken,
    /// The time limit for each step.
    pub patience: Duration,
}

impl Strangers {
    /// Allows at most `most` connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, places: Arc::default() }
    }

    /// Adds a new connection. If there are too many, it displaces the oldest one.
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
