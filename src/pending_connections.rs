//! Connections whose clients have not identified themselves yet. Their number is limited, and above it a new connection
//! displaces the oldest one. So such connections cannot lock out clients that come with a request, because those send
//! it at once.
//!
//! Used by the streaming port, for connections that have not shown a token, and by the metrics page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::mutex::Mutex;

/// How long a connection may take for TLS, and then for the header of its request, while there are few connections.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The same limit while more than half of the allowed number are open.
const SHORT_TIME_LIMIT: Duration = Duration::from_secs(2);

/// All such connections of one listener. Clones share the same state.
#[derive(Clone, Debug)]
pub struct PendingConnections {
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By order of arrival.
    open: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// One such connection. Dropping it makes space for another one.
#[derive(Debug)]
pub struct Pending {
    all: PendingConnections,
    number: u64,
    /// Cancelled when a newer connection displaces this one.
    pub displaced: CancellationToken,
    /// The time limit for each step.
    pub time_limit: Duration,
}

impl PendingConnections {
    /// Allows at most `most` connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    /// Adds a new connection. If there are too many, it displaces the oldest one.
    #[must_use]
    pub fn add(&self) -> Pending {
        let mut state = self.state.lock();
        if state.open.len() >= self.most
            && let Some((_, oldest)) = state.open.pop_first()
        {
            oldest.cancel();
        }
        let time_limit = if state.open.len() < self.most / 2 { TIME_LIMIT } else { SHORT_TIME_LIMIT };
        let (number, displaced) = (state.next, CancellationToken::new());
        state.next += 1;
        state.open.insert(number, displaced.clone());
        Pending { all: self.clone(), number, displaced, time_limit }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.all.state.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_takes_the_place_of_the_oldest_and_many_have_less_time() {
        let connections = PendingConnections::new(256);
        let mut all: Vec<Pending> = (0..256).map(|_| connections.add()).collect();
        assert_eq!((all[0].time_limit, all[255].time_limit), (TIME_LIMIT, SHORT_TIME_LIMIT));
        drop(all.remove(1));
        let one = connections.add();
        assert!(!all[0].displaced.is_cancelled(), "there was a place");
        let other = connections.add();
        assert!(all[0].displaced.is_cancelled() && !all[1].displaced.is_cancelled());
        assert!(!one.displaced.is_cancelled() && !other.displaced.is_cancelled());
        drop((all, one, other));
        assert_eq!(connections.state.lock().open.len(), 0);
    }
}
