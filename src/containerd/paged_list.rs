//! Lists records in pages that fit into a gRPC message: records that a tenant can make large (by a pod's annotations)
//! must not keep us from reading the others.
//!
//! A list has all records whose ids are in one range. A range whose list is too large is divided, down to the one record
//! that is too large by itself; of that record only the id is known. Each list costs containerd as much as all records
//! are large, because it reads them before it applies the filter. So a list whose records have messages of their own is
//! read to its end, in pages of limited size, and divided only at a record that is too large for a message.

use std::collections::{HashSet, VecDeque};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::{Code, Status};

use super::{Containerd, Error, Kind, Result};

/// The characters of our ids, in two halves.
const HEX: [&str; 2] = ["01234567", "89abcdef"];
/// All other characters that an id in containerd may have (its package identifiers).
const OTHERS: &str = "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-";
/// From this length of the prefix on, a page that is too large probably has one large record rather than many. Its
/// range is then divided into single characters, so that only one of the responses is as large as that record.
const DIVIDE_FINELY_FROM: usize = 3;
/// Longest id in containerd.
const LONGEST: usize = 76;

/// How many bytes of records with messages of their own are in a page: those of four large records, or of some thousand
/// usual ones.
const PAGE: usize = 64 << 20;

/// The records of one list.
pub type Records<T> = BoxStream<'static, Result<Sent<T>, Status>>;

/// A record as containerd has sent it.
#[derive(Debug)]
pub struct Sent<T> {
    pub record: T,
    /// Bytes of its message; 0 if it came in one message with others, whose size is limited already.
    pub size: usize,
}

/// A kind of record that is listed in pages.
pub trait Listed: Sized {
    /// The operation that errors name.
    const OPERATION: &'static str;
    /// Whether each record has its own message, so that many records together are never too large.
    const IS_STREAMED: bool;

    fn id(&self) -> &str;

    /// The records that a filter in containerd's syntax matches.
    fn list(containerd: &Containerd, filter: String) -> impl Future<Output = Result<Records<Self>, Status>> + Send;
}

/// An entry of a list.
#[derive(Debug)]
pub enum Entry<T> {
    /// The whole record.
    Record(T),
    /// The id of a record that does not fit into a message.
    TooLarge(String),
}

/// All records of one kind, one page after the other.
pub struct PagedList<'a, T> {
    containerd: &'a Containerd,
    pending: VecDeque<IdRange>,
    /// The list that is being read.
    open: Option<(IdRange, Records<T>)>,
    /// The ids in earlier pages. A range that is divided in the middle of its list has some of them again.
    listed: HashSet<String>,
}

impl<'a, T: Listed> PagedList<'a, T> {
    pub(super) fn new(containerd: &'a Containerd) -> Self {
        let pending = if T::IS_STREAMED { vec![IdRange::All] } else { IdRange::All.divided() };
        Self { containerd, pending: pending.into(), open: None, listed: HashSet::new() }
    }

    /// The next page, which may be empty; `None` after the last one.
    ///
    /// # Errors
    /// [`Kind::Unimplemented`] when this containerd does not have the service.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry<T>>>> {
        let (range, mut records) = match self.open.take() {
            Some(open) => open,
            None => {
                let Some(range) = self.pending.pop_front() else { return Ok(None) };
                match T::list(self.containerd, range.filter()).await {
                    Ok(records) => (range, records),
                    Err(status) => return self.divide(range, &status).map(|large| Some(Vec::from_iter(large))),
                }
            }
        };
        let (mut page, mut size) = (Vec::new(), 0);
        while size < PAGE {
            match records.next().await {
                Some(Ok(sent)) => {
                    size += sent.size;
                    if self.listed.insert(sent.record.id().to_owned()) {
                        page.push(Entry::Record(sent.record));
                    }
                }
                Some(Err(status)) => {
                    page.extend(self.divide(range, &status)?);
                    return Ok(Some(page));
                }
                None => return Ok(Some(page)),
            }
        }
        self.open = Some((range, records));
        Ok(Some(page))
    }

    /// Puts the parts of a range whose list has failed in front of the others. If the range is a single record, returns
    /// that record's entry.
    fn divide(&mut self, range: IdRange, status: &Status) -> Result<Option<Entry<T>>> {
        if !is_too_large(status) {
            return Err(self.containerd.error(T::OPERATION, &range.filter(), status));
        }
        match range {
            IdRange::One(id) => return Ok(Some(Entry::TooLarge(id))),
            // Whatever limit was exceeded, it was not the size of the message.
            IdRange::StartingWith { ref prefix, .. } if prefix.len() >= LONGEST => {
                return Err(Error::new(T::OPERATION, &range.filter(), Kind::Exhausted, status.message()));
            }
            IdRange::All | IdRange::StartingWith { .. } => {
                range.divided().into_iter().rev().for_each(|part| self.pending.push_front(part));
            }
        }
        Ok(None)
    }
}

/// Whether a response was larger than its sender (ResourceExhausted) or we (OutOfRange) allow.
fn is_too_large(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange)
}

/// A subset of all ids.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdRange {
    /// All ids.
    All,
    /// The ids that start with `prefix`, followed by one of the characters of `next`.
    StartingWith { prefix: String, next: &'static str },
    /// A single id.
    One(String),
}

impl IdRange {
    fn filter(&self) -> String {
        match self {
            Self::All => String::new(),
            // A dot is literal only in brackets.
            Self::StartingWith { prefix, next } => format!(r#"id~="^{}[{next}]""#, prefix.replace('.', "[.]")),
            Self::One(id) => format!(r#"id=="{id}""#),
        }
    }

    fn divided(&self) -> Vec<Self> {
        let starting_with = |prefix: &str, next| Self::StartingWith { prefix: prefix.to_owned(), next };
        match self {
            // Divides by the first digit at once: ids are random, and containerd builds each response before it finds
            // it too large.
            Self::All => digits().chain([OTHERS]).map(|next| starting_with("", next)).collect(),
            Self::StartingWith { prefix, next } if next.len() > 1 => {
                let (one, other) = next.split_at(next.len() / 2);
                vec![starting_with(prefix, one), starting_with(prefix, other)]
            }
            Self::StartingWith { prefix, next } => {
                let prefix = format!("{prefix}{next}");
                let next: Vec<&str> = if prefix.len() < DIVIDE_FINELY_FROM { HEX.to_vec() } else { digits().collect() };
                let longer = next.into_iter().chain([OTHERS]).map(|next| starting_with(&prefix, next));
                std::iter::once(Self::One(prefix.clone())).chain(longer).collect()
            }
            Self::One(_) => Vec::new(),
        }
    }
}

/// The hexadecimal digits, one at a time.
fn digits() -> impl Iterator<Item = &'static str> {
    HEX.into_iter().flat_map(|half| (0..half.len()).map(move |at| &half[at..=at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a range's filter matches an id, by containerd's rules.
    fn has(range: &IdRange, id: &str) -> bool {
        let filter = range.filter();
        if let Some(regex) = filter.strip_prefix(r#"id~=""#).and_then(|rest| rest.strip_suffix('"')) {
            return regex_lite::Regex::new(regex).unwrap().is_match(id);
        }
        filter.is_empty() || filter == format!(r#"id=="{id}""#)
    }

    #[test]
    fn each_id_is_in_one_part_of_a_range_that_has_it() {
        for id in ["0", "7f", "f", "89abcdef", "a.b-c_D", "Z9", "z..a", &"c0".repeat(32)] {
            let mut range = IdRange::All;
            while range != IdRange::One(id.to_owned()) {
                let parts = range.divided();
                let mut with = parts.iter().filter(|part| has(part, id));
                let next = with.next().unwrap_or_else(|| panic!("{id} is in no part of {range:?}")).clone();
                assert_eq!(with.next(), None, "{id} in {range:?}");
                range = next;
            }
        }
    }

    #[test]
    fn a_dot_is_no_wildcard() {
        let range = IdRange::StartingWith { prefix: "a.b".to_owned(), next: "01" };
        assert!(has(&range, "a.b1") && !has(&range, "axb1") && !has(&range, "xa.b1"));
    }
}
