//! Builds a process's environment, in time that is linear in its size: a tenant chooses how large it is.

use std::collections::HashMap;

/// Variables in order. The last value of a name wins, at the position of the first.
#[derive(Default)]
pub(super) struct Env {
    /// `None` where a variable was removed.
    entries: Vec<Option<String>>,
    /// The index of each name in `entries`.
    positions: HashMap<String, usize>,
}

impl Env {
    /// Sets `NAME=value`. A name without a value removes the variable: an image may contain one, and runc refuses it.
    pub(super) fn set(&mut self, entry: String) {
        let (name, has_value) = match entry.split_once('=') {
            Some((name, _)) => (name, true),
            None => (entry.as_str(), false),
        };
        match self.positions.get(name).copied() {
            Some(position) if has_value => self.entries[position] = Some(entry),
            Some(position) => {
                self.positions.remove(name);
                self.entries[position] = None;
            }
            None if has_value => {
                self.positions.insert(name.to_owned(), self.entries.len());
                self.entries.push(Some(entry));
            }
            None => {}
        }
    }

    /// The variables in the form that an OCI process takes.
    pub(super) fn into_vec(self) -> Vec<String> {
        self.entries.into_iter().flatten().collect()
    }
}

impl Extend<String> for Env {
    fn extend<T: IntoIterator<Item = String>>(&mut self, entries: T) {
        entries.into_iter().for_each(|entry| self.set(entry));
    }
}

impl FromIterator<String> for Env {
    fn from_iter<T: IntoIterator<Item = String>>(entries: T) -> Self {
        let mut env = Self::default();
        env.extend(entries);
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect::<Env>().into_vec()
    }

    #[test]
    fn the_last_of_a_name_wins_in_the_first_ones_place() {
        assert_eq!(env(&["A=1", "B=2", "A=3=4"]), ["A=3=4", "B=2"]);
    }

    #[test]
    fn a_name_without_a_value_takes_it_away_and_it_can_come_again() {
        assert_eq!(env(&["A=1", "B=2", "A", "C", "A=5"]), ["B=2", "A=5"]);
    }
}
