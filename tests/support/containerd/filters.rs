//! containerd's filters, as far as Pontoon uses them: by id.

use tonic::{Code, Status};

use super::status;

/// Which objects are to be listed.
pub(super) enum Filter {
    All,
    Id(String),
    IdMatches(regex_lite::Regex),
}

impl Filter {
    /// Parses the filters of a request. There may be one at most.
    pub(super) fn of(filters: &[String]) -> Result<Self, Status> {
        let bad = |filter: &str| status(Code::InvalidArgument, &format!("the fake does not know the filter {filter}"));
        let filter = match filters {
            [] => return Ok(Self::All),
            [one] => one.as_str(),
            many => return Err(bad(&many.join(" "))),
        };
        let value = |rest: &str| rest.strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
        if filter.is_empty() {
            Ok(Self::All)
        } else if let Some(id) = filter.strip_prefix("id==").and_then(value) {
            Ok(Self::Id(id))
        } else if let Some(regex) = filter.strip_prefix("id~=").and_then(value) {
            regex_lite::Regex::new(&regex).map(Self::IdMatches).map_err(|_| bad(filter))
        } else {
            Err(bad(filter))
        }
    }

    pub(super) fn has(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Id(one) => one == id,
            Self::IdMatches(regex) => regex.is_match(id),
        }
    }
}
