//! Contexts and levels in text form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `user:role:type`, and `:level` if the policy has levels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Context {
    pub user: String,
    /// Role; always `object_r` for files.
    pub role: String,
    /// Type; for a process also called its domain.
    pub kind: String,
    /// Level or range; may contain colons.
    pub level: Option<String>,
}

/// The labels of a pod or a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Label of its processes, unless they are privileged or in a virtual machine.
    pub process: Context,
    /// Label of its files.
    pub mount: Context,
}

/// A text that is not a context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an SELinux context")]
pub struct BadContext(String);

impl FromStr for Context {
    type Err = BadContext;

    fn from_str(text: &str) -> Result<Self, BadContext> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut next = || parts.next().filter(|part| !part.is_empty());
        match (next(), next(), next(), next()) {
            (Some(user), Some(role), Some(kind), level) => Ok(Self { user, role, kind, level }),
            _ => Err(BadContext(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Context {
    type Error = BadContext;

    fn try_from(text: String) -> Result<Self, BadContext> {
        text.parse()
    }
}

impl From<Context> for String {
    fn from(context: Context) -> Self {
        context.to_string()
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.iter().try_for_each(|level| write!(f, ":{level}"))
    }
}

/// Whether a text is a level or a range, such as `s0`, `s0:c1,c5.c9` or `s0-s0:c0.c1023`.
#[must_use]
pub fn is_level(text: &str) -> bool {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    [low, high].into_iter().all(is_single_level)
}

fn is_single_level(text: &str) -> bool {
    let (sensitivity, categories) = text.split_once(':').unwrap_or((text, "c0"));
    let categories = categories.split(',').flat_map(|part| {
        let (first, last) = part.split_once('.').unwrap_or((part, part));
        [first, last]
    });
    is_numbered(sensitivity, 's') && categories.into_iter().all(|category| is_numbered(category, 'c'))
}

fn is_numbered(text: &str, letter: char) -> bool {
    let digits = text.strip_prefix(letter).unwrap_or_default();
    (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_and_written_whole() {
        for text in ["system_u:object_r:container_file_t:s0:c1,c2", "u:r:t", "u:r:t:s0-s0:c0.c1023"] {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        let context: Context = "u:r:t:s0:c1,c2".parse().unwrap();
        assert_eq!(context.level.as_deref(), Some("s0:c1,c2"));
        for text in ["", "kernel", "u:r", "u::t:s0"] {
            assert!(text.parse::<Context>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_level_is_sensitivities_and_categories_and_nothing_else() {
        for good in
            ["s0", "s15", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0:c1,c5.c9,c20", "s0-s0:c0.c1023", "s0:c1-s3:c1"]
        {
            assert!(is_level(good), "{good}");
        }
        for bad in [
            "",
            "0",
            "s",
            "s0,c4,c5",
            "s0:",
            "s0:c",
            "s0:c1,",
            "s0:c1.",
            "s0:4",
            "s0-",
            "s0:c12345",
            "s0:c1:c2",
            "s0 ",
            "s0:c1\n",
            "s0-s0-s0",
        ] {
            assert!(!is_level(bad), "{bad:?}");
        }
    }
}
