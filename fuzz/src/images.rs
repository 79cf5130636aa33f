//! Replaces `src/images/`: only the parsers of references and of an image's documents.

#[path = "../../src/images/config.rs"]
mod config;
#[path = "../../src/images/document.rs"]
mod document;
#[path = "../../src/images/errors.rs"]
mod errors;
#[path = "../../src/images/manifest.rs"]
mod manifest;
#[path = "../../src/images/media.rs"]
mod media;
#[path = "../../src/images/platform.rs"]
mod platform;
#[path = "../../src/images/reference.rs"]
mod reference;

use futures_util::FutureExt;

pub use errors::{Error, Kind, Unusable};

use crate::containerd::{Containerd, Descriptor};
use crate::spec::ImageConfig;
use manifest::Contents;
use reference::Reference;

/// Parses an image's documents, which are separated by zero bytes. A document's digest is its number, repeated 64
/// times; the first document is the image's target.
///
/// # Panics
/// If an image with invalid layers or volumes is accepted.
pub fn documents(input: &[u8]) {
    let digest = |number: usize| format!("sha256:{}", number.to_string().repeat(64));
    let blobs = crate::pieces(input, 6).into_iter().enumerate().map(|(number, blob)| (digest(number), blob.to_vec()));
    let containerd = Containerd(blobs.collect());
    let target = Descriptor { digest: digest(0), size: 1, ..Descriptor::default() };
    let read = Contents::read(&containerd, &target, &platform::of_the_host()).now_or_never();
    let Ok(contents) = read.expect("memory never waits") else { return };
    assert!(contents.size > 0);
    assert_eq!(contents.chain_id, contents.layers.last().map(|layer| layer.chain_id.clone()).unwrap_or_default());
    for layer in &contents.layers {
        assert!(reference::is_digest(&layer.chain_id) && reference::is_digest(&layer.diff_id));
    }
    let config = contents.cached_config.config.as_deref().map(ImageConfig::from).unwrap_or_default();
    for volume in config.volumes {
        let parts: Vec<&str> = volume.split('/').collect();
        assert!(volume.starts_with('/') && !parts.contains(&"..") && !parts.contains(&"."), "{volume}");
    }
}

/// Parses a reference. An accepted one always names the same image, in its original and its normalised form.
///
/// # Panics
/// If a normalised reference is parsed as another one, or has a part such as `..`.
pub fn reference(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(reference) = Reference::parse(text) else { return };
    let normal = reference.to_string();
    assert_eq!(Reference::parse(&normal).ok(), Some(reference), "{normal}");
    assert!(!normal.split('/').any(|part| part.is_empty() || part == "." || part == ".."), "{normal}");
}
