//! Reads JSON documents that an image's author wrote: with limits on their size, and only a few at a time.

use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::reference::is_digest;
use crate::containerd::{self, Containerd};
use crate::joined::run_blocking;

/// Largest manifest, index or config that is read, in bytes (CVE-2023-25153).
pub(super) const LARGEST: usize = 8 << 20;
/// Most values in a document: a value takes up to ten times as many bytes in memory as in the text. A real document has
/// a few hundred.
const MOST_VALUES: usize = 500_000;
/// Documents up to this size are parsed on the async thread, larger ones on a blocking thread.
const SMALL: usize = 256 << 10;
/// Limits how many documents are in memory at a time, as text or parsed: each takes about 40 MB at most.
static IN_MEMORY: Semaphore = Semaphore::const_new(4);

/// Why a document was not read.
pub(super) enum NotRead {
    /// The error of containerd: it could not be reached, or does not have the document.
    Containerd(containerd::Error),
    /// What is wrong with the document, in words.
    Malformed(String),
}

/// Reads and parses a document. `keep` extracts the part that the caller needs.
pub(super) async fn read<T: DeserializeOwned, K: Send + 'static>(
    containerd: &Containerd,
    digest: &str,
    keep: impl FnOnce(T) -> Result<K, String> + Send + 'static,
) -> Result<K, NotRead> {
    if !is_digest(digest) {
        return Err(NotRead::Malformed("no digest".to_owned()));
    }
    // The semaphore is never closed.
    let _in_memory = IN_MEMORY.acquire().await;
    let blob = containerd.read_blob(digest, LARGEST).await.map_err(NotRead::Containerd)?;
    let is_small = blob.len() <= SMALL;
    let parse = move || parse(blob, keep).map_err(NotRead::Malformed);
    if is_small {
        return parse();
    }
    run_blocking(parse).await
}

fn parse<T: DeserializeOwned, K>(blob: Vec<u8>, keep: impl FnOnce(T) -> Result<K, String>) -> Result<K, String> {
    if values(&blob) > MOST_VALUES {
        return Err(format!("it has more than {MOST_VALUES} values"));
    }
    let document = serde_json::from_slice(&blob).map_err(|error| short(error.to_string()))?;
    drop(blob);
    keep(document).map_err(short)
}

/// Shortens a reason, which may quote the document.
fn short(mut reason: String) -> String {
    const LONGEST: usize = 256;
    if reason.len() > LONGEST {
        reason.truncate(reason.floor_char_boundary(LONGEST));
        reason.push_str("...");
    }
    reason
}

/// An upper bound of the number of values in a JSON text, not counting member names: each value but the first follows a
/// comma, or is the first of an array or an object.
fn values(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t10_a_document_of_very_many_values_is_not_parsed() {
        let text = format!("[{}\"\"]", "\"\",".repeat(MOST_VALUES));
        let refused = parse::<serde_json::Value, _>(text.into_bytes(), Ok).unwrap_err();
        assert_eq!(refused, "it has more than 500000 values");
        let text = format!("[{}\"\"]", "\"\",".repeat(MOST_VALUES / 2));
        assert!(parse::<serde_json::Value, _>(text.into_bytes(), Ok).is_ok());
    }

    #[test]
    fn t10_a_reason_does_not_quote_the_document_whole() {
        let text = serde_json::to_vec(&"x".repeat(1 << 20)).unwrap();
        let refused = parse::<Vec<u8>, _>(text, Ok).unwrap_err();
        assert!(refused.starts_with("invalid type: string \"xxx") && refused.len() < 300, "{}", refused.len());
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, at_least) in [
            (r"7", 1),
            (r#""a,b[{\",,""#, 1),
            (r#"["a","b"]"#, 3),
            (r#"{"a":{"b":[1,2]},"c":"\\"}"#, 5),
            (r#"["a\\","b"]"#, 3),
        ] {
            let count = values(text.as_bytes());
            assert!((at_least..=at_least + 1).contains(&count), "{text}: {count}");
        }
    }
}
