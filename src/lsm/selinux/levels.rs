//! Allocates levels to pods: two categories per pod. No two pods get the same pair, except by naming it in their
//! options.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::mutex::{Mutex, MutexGuard};

/// Policies have the categories c0 to c1023.
pub const MAX_CATEGORIES: u16 = 1024;

/// Two categories, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair(u16, u16);

/// All available levels are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {pairs} pairs of {categories} categories are in use (selinux.category_range)")]
pub struct Exhausted {
    pairs: u32,
    categories: u16,
}

/// The levels of the node's pods.
#[derive(Debug)]
pub struct Levels {
    categories: u16,
    /// How many pods hold each pair: more than one only if their options name it.
    held: Mutex<HashMap<Pair, usize>>,
}

/// Reserves a level until it is dropped; exists as long as its pod.
#[derive(Debug)]
pub struct Reservation {
    pair: Pair,
    levels: Arc<Levels>,
}

impl Pair {
    /// The pair of a level with exactly two categories. Other levels cannot collide with an allocated one.
    #[must_use]
    pub fn of(level: &str) -> Option<Self> {
        let (first, second) = level.strip_prefix("s0:")?.split_once(',')?;
        let number = |text: &str| text.strip_prefix('c')?.parse::<u16>().ok();
        let (first, second) = (number(first)?, number(second)?);
        (first != second).then_some(Self(first.min(second), first.max(second)))
    }

    /// The pair with this number, counted from 0: (0,1), (0,2), (1,2), (0,3) ...
    fn numbered(number: u32) -> Self {
        let high = (1 + 8 * number).isqrt().div_ceil(2);
        let low = number - high * (high - 1) / 2;
        // Both are below MAX_CATEGORIES.
        Self(u16::try_from(low).unwrap_or(0), u16::try_from(high).unwrap_or(1))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s0:c{},c{}", self.0, self.1)
    }
}

impl Levels {
    /// Allocates from the categories c0 to `categories` - 1; there are always at least two.
    #[must_use]
    pub fn new(categories: u16) -> Arc<Self> {
        Arc::new(Self { categories: categories.clamp(2, MAX_CATEGORIES), held: Mutex::default() })
    }

    /// Reserves a random level that is not in use. It is random so that a released level is not soon used again: files
    /// of a removed pod may still carry it. `is_in_use` says which levels are in use without a reservation.
    ///
    /// # Errors
    /// [`Exhausted`] when all levels are in use.
    pub fn choose(self: &Arc<Self>, is_in_use: impl Fn(Pair) -> bool) -> Result<Reservation, Exhausted> {
        let categories = u32::from(self.categories);
        let pairs = categories * (categories - 1) / 2;
        let first = random() % pairs;
        let mut held = self.lock();
        let pair = (0..pairs)
            .map(|step| Pair::numbered((first + step) % pairs))
            .find(|pair| !held.contains_key(pair) && !is_in_use(*pair))
            .ok_or(Exhausted { pairs, categories: self.categories })?;
        held.insert(pair, 1);
        drop(held);
        Ok(Reservation { pair, levels: Arc::clone(self) })
    }

    /// Reserves the level of an existing pod; `None` for a level that [`Levels::choose`] would never return.
    #[must_use]
    pub fn hold(self: &Arc<Self>, level: &str) -> Option<Reservation> {
        let pair = Pair::of(level)?;
        *self.lock().entry(pair).or_insert(0) += 1;
        Some(Reservation { pair, levels: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pair, usize>> {
        self.held.lock()
    }
}

impl Reservation {
    #[must_use]
    pub fn level(&self) -> String {
        self.pair.to_string()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.levels.lock();
        match held.get_mut(&self.pair) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.pair)),
        }
    }
}

fn random() -> u32 {
    let mut bytes = [0_u8; 4];
    // Without randomness a pod still gets a level of its own, only a predictable one.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_pods_have_the_same_level_and_a_level_comes_back() {
        let levels = Levels::new(4);
        let mut all: Vec<Reservation> = (0..6).map(|_| levels.choose(|_| false).unwrap()).collect();
        let distinct: HashSet<String> = all.iter().map(Reservation::level).collect();
        assert_eq!(distinct.len(), 6);
        assert_eq!(levels.choose(|_| false).unwrap_err(), Exhausted { pairs: 6, categories: 4 });
        let gone = all.pop().unwrap().level();
        assert_eq!(levels.choose(|_| false).unwrap().level(), gone);
    }

    #[test]
    fn what_is_held_by_name_is_not_chosen_until_the_last_one_is_gone() {
        let levels = Levels::new(2);
        let (one, two) = (levels.hold("s0:c1,c0").unwrap(), levels.hold("s0:c0,c1").unwrap());
        drop(one);
        assert!(levels.choose(|_| false).is_err());
        drop(two);
        assert!(levels.choose(|pair| Pair::of("s0:c0,c1") == Some(pair)).is_err());
        assert_eq!(levels.choose(|_| false).unwrap().level(), "s0:c0,c1");
    }

    #[test]
    fn only_pairs_meet_what_is_chosen() {
        let levels = Levels::new(1024);
        for level in ["s0", "s0:c1", "s0:c1.c3", "s0:c1,c2,c3", "s1:c1,c2", "s0:c1,c1"] {
            assert!(levels.hold(level).is_none(), "{level}");
        }
    }

    #[test]
    fn pairs_are_numbered_without_gaps() {
        let pairs: HashSet<Pair> = (0..1024 * 1023 / 2).step_by(97).map(Pair::numbered).collect();
        assert_eq!(pairs.len(), (1024_usize * 1023 / 2).div_ceil(97));
        assert_eq!(Pair::numbered(0), Pair(0, 1));
        assert_eq!(Pair::numbered(1024 * 1023 / 2 - 1), Pair(1022, 1023));
    }
}
