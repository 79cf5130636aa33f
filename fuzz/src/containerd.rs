//! Replaces `src/containerd/`: the blobs are in memory.

use std::collections::{BTreeMap, HashMap};

/// The blobs by digest.
#[derive(Default)]
pub struct Containerd(pub HashMap<String, Vec<u8>>);

impl Containerd {
    pub async fn read_blob(&self, digest: &str, limit: usize) -> Result<Vec<u8>, Error> {
        let blob = self.0.get(digest).ok_or(Error(Kind::NotFound))?;
        if blob.len() > limit { Err(Error(Kind::Exhausted)) } else { Ok(blob.clone()) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?}")]
pub struct Error(Kind);

impl Error {
    pub fn kind(&self) -> Kind {
        self.0
    }

    pub fn is_not_found(&self) -> bool {
        self.0 == Kind::NotFound
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    InvalidArgument,
    FailedPrecondition,
    Unavailable,
    Exhausted,
    Unimplemented,
    Denied,
    Cancelled,
    Other,
}

/// A handler's options. The daemon encodes them as a message of containerd; here each table is accepted.
#[derive(Clone, Debug)]
pub struct Options;

impl Options {
    pub fn new(_: &str, _: &BTreeMap<String, toml::Value>) -> Result<Self, OptionsError> {
        Ok(Self)
    }
}

/// Why an option cannot be used.
#[derive(Clone, Debug)]
pub struct OptionsError {
    pub key: String,
    pub problem: String,
}
