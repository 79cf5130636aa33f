//! Image references, normalised as Docker and containerd do it (distribution/reference): `busybox` is
//! `docker.io/library/busybox:latest`, and a digest takes precedence over a tag.
//!
//! A reference cannot climb a path: each component starts and ends with a letter or a digit, so `..` is not a component
//! (containerd before 2.4.2 let such a reference reach another host).

use std::fmt;

use super::Error;

const DEFAULT_HOST: &str = "docker.io";
const LEGACY_DEFAULT_HOST: &str = "index.docker.io";
/// Longest path of a repository, from the distribution specification.
const LONGEST_PATH: usize = 255;
const LONGEST_TAG: usize = 128;
/// No reference within the other limits is longer. Keeps errors and logs short.
const LONGEST: usize = 1024;

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    host: String,
    path: String,
    object: Object,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Object {
    Tag(String),
    Digest(String),
}

/// The normalised form of a reference: with its host, and with a tag or a digest.
///
/// # Errors
/// [`Error::Invalid`] when the text is not a reference.
pub fn normalised(text: &str) -> Result<String, Error> {
    Reference::parse(text).map(|reference| reference.to_string())
}

impl Reference {
    /// # Errors
    /// [`Error::Invalid`] for the field `image.image`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let (host, path, object) = parts(text)?;
        Ok(Self { host, path, object: object.unwrap_or_else(|| Object::Tag("latest".to_owned())) })
    }

    /// `host/path` of a text without a tag or digest; `None` for any other text.
    pub(super) fn repository(text: &str) -> Option<String> {
        match parts(text) {
            Ok((host, path, None)) => Some(format!("{host}/{path}")),
            Ok((_, _, Some(_))) | Err(_) => None,
        }
    }

    /// Registry host with its port, as the reference spells it (`docker.io`, not the host that serves it).
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// `host/path@digest`, the name that never moves.
    pub(super) fn with_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.host, self.path)
    }
}

/// Splits a text into its host, its path, and its tag or digest if it has one.
fn parts(text: &str) -> Result<(String, String, Option<Object>), Error> {
    if text.is_empty() {
        return Err(Error::image("no image reference"));
    }
    if text.len() > LONGEST {
        return Err(Error::image(format!("longer than {LONGEST} characters")));
    }
    if is_hex(text, 64) {
        return Err(Error::image("an image id is not a reference"));
    }
    let refuse = |reason: &str| Error::image(format!("{text:?} {reason}"));
    let (host, rest) = split_host(text);
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    if !is_host(&host) {
        return Err(refuse("has no valid registry host"));
    }
    if path.len() > LONGEST_PATH || !path.split('/').all(is_component) {
        return Err(refuse("has no valid repository path"));
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(refuse("has no valid tag"));
    }
    let object = match (digest, tag) {
        (Some(digest), _) if is_digest(digest) => Some(Object::Digest(digest.to_owned())),
        (Some(_), _) => return Err(refuse("has no valid digest")),
        (None, tag) => tag.map(|tag| Object::Tag(tag.to_owned())),
    };
    Ok((host, path, object))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.path),
            Object::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.path),
        }
    }
}

/// Whether a text is a digest of an algorithm that containerd stores content by.
pub(super) fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some(("sha256", hex)) => is_hex(hex, 64),
        Some(("sha384", hex)) => is_hex(hex, 96),
        Some(("sha512", hex)) => is_hex(hex, 128),
        _ => false,
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The first component is a host if it looks like one: it contains a dot or a colon, is `localhost`, or contains an
/// upper-case letter, which no repository does.
fn split_host(text: &str) -> (String, &str) {
    match text.split_once('/') {
        Some((LEGACY_DEFAULT_HOST, rest)) => (DEFAULT_HOST.to_owned(), rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first.to_owned(), rest)
        }
        _ => (DEFAULT_HOST.to_owned(), text),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
                return valid && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        !label.is_empty()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_familiar_name_becomes_a_full_one() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("me/tool", "docker.io/me/tool:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y:Z_1.a-b", "localhost:5000/x/y:Z_1.a-b".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("r.example/a/b__c/d--e.f:t", "r.example/a/b__c/d--e.f:t".to_owned()),
            (&format!("r.example/a:tag@{digest}"), format!("r.example/a@{digest}")),
        ] {
            assert_eq!(normal(text), full, "{text}");
        }
    }

    #[test]
    fn r11_a_name_without_tag_and_digest_is_a_repository() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, repository) in [
            ("busybox", Some("docker.io/library/busybox")),
            ("docker.io/library/busybox", Some("docker.io/library/busybox")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b")),
            ("busybox:latest", None),
            (&format!("busybox@{digest}"), None),
            (&digest, None),
            (&digest["sha256:".len()..], None),
            ("", None),
            ("../x", None),
        ] {
            assert_eq!(Reference::repository(text).as_deref(), repository, "{text}");
        }
    }

    #[test]
    fn what_could_climb_or_confuse_is_refused() {
        let id = "a".repeat(64);
        for text in [
            "",
            "r.example/../evil/x",
            "r.example/a/..",
            "../x",
            "r.example/a//b",
            "r.example/",
            "/a",
            "a:",
            "a@",
            "a@sha256:abc",
            "r.example/A",
            "a b",
            "a\nb",
            "r.example/a?x=1",
            "r.example/a#b",
            "user@r.example/a",
            "r.example:99999/a",
            "r.example:/a",
            "-r.example/a",
            "r.example/a:-t",
            "http://r.example/a",
            "a/.b",
            "a/b.",
            "a/b___c",
            "a/b..c",
            "[::1/x",
            "%2e%2e/x",
            "r.example/a/%2e%2e/b",
            id.as_str(),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.to_string().starts_with("image.image: "), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                let full = reference.to_string();
                prop_assert_eq!(Reference::parse(&full).unwrap(), reference);
                prop_assert!(!full.contains("..") && !full.contains("//"));
            }
        }

        #[test]
        fn what_looks_like_a_reference_is_one(
            host in "[a-z]{1,8}\\.[a-z]{2,4}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,5}([._]|__|-{1,3})[a-z0-9]{1,5}(/[a-z0-9]{1,9}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            prop_assert_eq!(normal(&text), text);
        }
    }
}
