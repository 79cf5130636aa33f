//! Lists of records in pieces that fit into a message: what a tenant can make large (a pod's annotations) must not keep us
//! from reading the records.
//!
//! A piece is what has an id of a certain beginning. One that is too large is divided, down to the one record that is too
//! large alone: of that the id is known, and no more.

use std::collections::VecDeque;
use std::marker::PhantomData;

use tonic::{Code, Status};

use super::{Containerd, Error, Kind, Result};

/// What our ids are made of, in half and half.
const HEX: [&str; 2] = ["01234567", "89abcdef"];
/// What else there can be in an id of containerd's (its package identifiers).
const OTHERS: &str = "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-";
/// Behind so many known characters a piece that is too large has one large record rather than many: it is divided into single
/// characters, since of those one answer alone is as large as that record.
const FEW: usize = 3;
/// An id of containerd's is no longer.
const LONGEST: usize = 76;

/// A kind of records that are listed in pieces.
pub trait Listed: Sized {
    /// What is tried, for errors.
    const OPERATION: &'static str;
    /// Whether each record has a message of its own, so that many are not too large together.
    const IS_STREAMED: bool;

    /// The records that a filter in containerd's syntax matches.
    fn list(containerd: &Containerd, filter: String) -> impl Future<Output = Result<Vec<Self>, Status>> + Send;
}

/// A record of a list.
#[derive(Debug)]
pub enum Entry<T> {
    /// It, whole.
    Record(T),
    /// The id of one that does not fit into a message.
    TooLarge(String),
}

/// All records of one kind, one piece after the other.
#[derive(Debug)]
pub struct Pieces<'a, T> {
    containerd: &'a Containerd,
    left: VecDeque<Piece>,
    records: PhantomData<T>,
}

impl<'a, T: Listed> Pieces<'a, T> {
    pub(super) fn new(containerd: &'a Containerd) -> Self {
        let left = if T::IS_STREAMED { vec![Piece::All] } else { Piece::All.divided() };
        Self { containerd, left: left.into(), records: PhantomData }
    }

    /// The next piece, which may be empty; `None` when there is none.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`] on a containerd without the service.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry<T>>>> {
        while let Some(piece) = self.left.pop_front() {
            let filter = piece.filter();
            match T::list(self.containerd, filter.clone()).await {
                Ok(records) => return Ok(Some(records.into_iter().map(Entry::Record).collect())),
                Err(status) if !is_too_large(&status) => return Err(Error::status(T::OPERATION, &filter, &status)),
                Err(status) => match piece {
                    Piece::One(id) => return Ok(Some(vec![Entry::TooLarge(id)])),
                    // Whatever it was that was exhausted, it was not the message.
                    Piece::Of { ref prefix, .. } if prefix.len() >= LONGEST => {
                        return Err(Error::new(T::OPERATION, &filter, Kind::Exhausted, status.message()));
                    }
                    Piece::All | Piece::Of { .. } => {
                        piece.divided().into_iter().rev().for_each(|part| self.left.push_front(part))
                    }
                },
            }
        }
        Ok(None)
    }
}

/// Whether an answer was longer than what its sender (ResourceExhausted) or we (OutOfRange) take.
fn is_too_large(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange)
}

/// A part of all ids.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// All of them.
    All,
    /// Those that begin so, and go on with one of some characters.
    Of { prefix: String, next: &'static str },
    /// One.
    One(String),
}

impl Piece {
    fn filter(&self) -> String {
        match self {
            Self::All => String::new(),
            // A dot stands for itself in brackets only.
            Self::Of { prefix, next } => format!(r#"id~="^{}[{next}]""#, prefix.replace('.', "[.]")),
            Self::One(id) => format!(r#"id=="{id}""#),
        }
    }

    fn divided(&self) -> Vec<Self> {
        let of = |prefix: &str, next| Self::Of { prefix: prefix.to_owned(), next };
        match self {
            // By the first digit at once: ids are random, and containerd makes each answer before it finds it too large.
            Self::All => digits().chain([OTHERS]).map(|next| of("", next)).collect(),
            Self::Of { prefix, next } if next.len() > 1 => {
                let (one, other) = next.split_at(next.len() / 2);
                vec![of(prefix, one), of(prefix, other)]
            }
            Self::Of { prefix, next } => {
                let prefix = format!("{prefix}{next}");
                let next: Vec<&str> = if prefix.len() < FEW { HEX.to_vec() } else { digits().collect() };
                let longer = next.into_iter().chain([OTHERS]).map(|next| of(&prefix, next));
                std::iter::once(Self::One(prefix.clone())).chain(longer).collect()
            }
            Self::One(_) => Vec::new(),
        }
    }
}

/// Each digit by itself.
fn digits() -> impl Iterator<Item = &'static str> {
    HEX.into_iter().flat_map(|half| (0..half.len()).map(move |at| &half[at..=at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a piece's filter matches an id, as containerd reads it.
    fn has(piece: &Piece, id: &str) -> bool {
        let filter = piece.filter();
        if let Some(regex) = filter.strip_prefix(r#"id~=""#).and_then(|rest| rest.strip_suffix('"')) {
            return regex_lite::Regex::new(regex).unwrap().is_match(id);
        }
        filter.is_empty() || filter == format!(r#"id=="{id}""#)
    }

    #[test]
    fn each_id_is_in_one_part_of_a_piece_that_has_it() {
        for id in ["0", "7f", "f", "89abcdef", "a.b-c_D", "Z9", "z..a", &"c0".repeat(32)] {
            let mut piece = Piece::All;
            while piece != Piece::One(id.to_owned()) {
                let parts = piece.divided();
                let mut with = parts.iter().filter(|part| has(part, id));
                let next = with.next().unwrap_or_else(|| panic!("{id} is in no part of {piece:?}")).clone();
                assert_eq!(with.next(), None, "{id} in {piece:?}");
                piece = next;
            }
        }
    }

    #[test]
    fn a_dot_is_no_wildcard() {
        let piece = Piece::Of { prefix: "a.b".to_owned(), next: "01" };
        assert!(has(&piece, "a.b1") && !has(&piece, "axb1") && !has(&piece, "xa.b1"));
    }
}
