//! From a record's target to what is in the image: index -> manifest -> config. Everything
//! here is written by the image's author, so every read is bounded and nothing is believed.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Error;
use super::reference::is_digest;
use crate::containerd::{Containerd, Descriptor, Platform};

/// Largest manifest, index or config that is read (CVE-2023-25153).
pub(super) const LARGEST_DOCUMENT: usize = 8 << 20;
/// Indexes within indexes.
const DEEPEST: usize = 4;

/// What a target means on this host's platform; the same for ever, as it is all digests.
#[derive(Debug)]
pub(super) struct Contents {
    /// The config, whose digest is the image's id.
    pub(super) config: Descriptor,
    pub(super) configuration: Arc<ImageConfiguration>,
    /// The layers from the bottom up, as the registry has them.
    pub(super) layers: Vec<Layer>,
    /// The snapshot that is the image's root; empty for an image without layers.
    pub(super) chain_id: String,
    /// Bytes of manifest, config and layers as the registry has them.
    pub(super) size: u64,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// The archive.
    pub(super) blob: Descriptor,
    /// Digest of the archive without compression.
    pub(super) diff_id: String,
    /// Name of the snapshot of this layer and all below it.
    pub(super) chain_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
    #[serde(default)]
    config: Option<Entry>,
    #[serde(default)]
    layers: Option<Vec<Entry>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    platform: Option<EntryPlatform>,
}

#[derive(Clone, Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Contents {
    /// Reads what a target means for `platform`.
    ///
    /// # Errors
    /// [`Error::Malformed`], or [`Error::Containerd`] with `NotFound` when a document is not there.
    pub(super) async fn read(containerd: &Containerd, target: &Descriptor, platform: &Platform) -> Result<Self, Error> {
        let mut size = bytes(target.size);
        let mut digest = target.digest.clone();
        for _ in 0..DEEPEST {
            let document: Document = read_json(containerd, &digest).await?;
            if let Some(entries) = document.manifests {
                if document.layers.is_some() || document.config.is_some() {
                    return Err(Error::malformed(&digest, "both an index and a manifest (CVE-2021-41190)"));
                }
                let entry = choose(containerd, &digest, entries, platform).await?;
                size = size.saturating_add(bytes(entry.size));
                digest = entry.digest;
                continue;
            }
            let config = document.config.ok_or_else(|| Error::malformed(&digest, "neither an index nor a manifest"))?;
            return Self::from_manifest(containerd, size, config, document.layers.unwrap_or_default()).await;
        }
        Err(Error::malformed(&target.digest, format!("more than {DEEPEST} indexes within each other")))
    }

    async fn from_manifest(
        containerd: &Containerd,
        size: u64,
        config: Entry,
        blobs: Vec<Entry>,
    ) -> Result<Self, Error> {
        let mut configuration: ImageConfiguration = read_json(containerd, &config.digest).await?;
        // Only `ImageStatus` verbose shows it, and reads it again.
        configuration.set_history(None);
        let diff_ids = configuration.rootfs().diff_ids();
        if diff_ids.len() != blobs.len() {
            let reason = format!("{} diff ids for {} layers", diff_ids.len(), blobs.len());
            return Err(Error::malformed(&config.digest, reason));
        }
        if let Some(bad) = diff_ids.iter().find(|id| !is_digest(id)) {
            return Err(Error::malformed(&config.digest, format!("diff id {bad:?} is no digest")));
        }
        let chain_ids = chain_ids(diff_ids);
        let size =
            blobs.iter().fold(size.saturating_add(bytes(config.size)), |sum, l| sum.saturating_add(bytes(l.size)));
        let chain_id = chain_ids.last().cloned().unwrap_or_default();
        let layers = blobs.into_iter().zip(diff_ids.iter().cloned()).zip(chain_ids);
        let layers = layers.map(|((blob, diff_id), chain_id)| Layer { blob: blob.into(), diff_id, chain_id }).collect();
        Ok(Self { config: config.into(), configuration: Arc::new(configuration), layers, chain_id, size: size.max(1) })
    }
}

/// A JSON document of at most [`LARGEST_DOCUMENT`] bytes.
pub(super) async fn read_json<T: serde::de::DeserializeOwned>(
    containerd: &Containerd,
    digest: &str,
) -> Result<T, Error> {
    if !is_digest(digest) {
        return Err(Error::malformed(digest, "no digest"));
    }
    let blob = containerd.read_blob(digest, LARGEST_DOCUMENT).await?;
    serde_json::from_slice(&blob).map_err(|error| Error::malformed(digest, error.to_string()))
}

/// The best entry of an index whose manifest is here: only that of the pulled platform is.
async fn choose(
    containerd: &Containerd,
    index: &str,
    entries: Vec<Entry>,
    platform: &Platform,
) -> Result<Entry, Error> {
    let mut ranked: Vec<(u8, Entry)> =
        entries.into_iter().filter_map(|entry| Some((rank(entry.platform.as_ref(), platform)?, entry))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    for (_, entry) in ranked {
        match read_json::<serde::de::IgnoredAny>(containerd, &entry.digest).await {
            Ok(_) => return Ok(entry),
            Err(Error::Containerd(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let reason = format!("nothing here for {}/{}", platform.os, platform.architecture);
    Err(Error::malformed(index, reason))
}

/// How well an entry fits, 0 the best; `None` when it does not run here.
fn rank(entry: Option<&EntryPlatform>, host: &Platform) -> Option<u8> {
    // An index need not say; then what is here was pulled for this host.
    let Some(entry) = entry else { return Some(9) };
    if entry.os != host.os || entry.architecture != host.architecture {
        return None;
    }
    // arm64 without a variant is v8.
    let plain = entry.variant.is_empty() || (entry.architecture == "arm64" && entry.variant == "v8");
    Some(match (entry.variant == host.variant || (plain && host.variant.is_empty()), plain) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    })
}

/// The OCI image specification's chain ids of a stack of layers.
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => sha256(&format!("{below} {diff_id}")),
        };
        chain.push(next);
    }
    chain
}

fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes()).iter().fold("sha256:".to_owned(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn bytes(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

impl From<Entry> for Descriptor {
    fn from(entry: Entry) -> Self {
        Self { media_type: entry.media_type, digest: entry.digest, size: entry.size }
    }
}

/// The platform of this host, in Go's words.
pub(super) fn host_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    let variant = match architecture {
        "arm64" => "v8",
        "arm" => "v7",
        _ => "",
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_covers_all_layers_below() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], sha256("sha256:a sha256:b"));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn the_host_s_own_platform_fits_best() {
        let entry = |os: &str, architecture: &str, variant: &str| EntryPlatform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        };
        let amd64 = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: String::new() };
        assert_eq!(rank(Some(&entry("linux", "amd64", "")), &amd64), Some(0));
        assert_eq!(rank(Some(&entry("linux", "amd64", "v3")), &amd64), Some(2));
        assert_eq!(rank(Some(&entry("linux", "arm64", "")), &amd64), None);
        assert_eq!(rank(Some(&entry("unknown", "unknown", "")), &amd64), None);
        assert_eq!(rank(None, &amd64), Some(9));
    }

    #[test]
    fn a_config_as_docker_writes_it_parses() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z",
            "config":{"Env":["A=b"],"Cmd":null,"Entrypoint":null,"Labels":null,"OnBuild":null,"Volumes":{"/v":{}},
            "ExposedPorts":null,"User":"","Healthcheck":{"Test":["NONE"]},"ArgsEscaped":true},
            "rootfs":{"type":"layers","diff_ids":["sha256:x"]},"history":[{"created_by":"x"}]}"#;
        let config: ImageConfiguration = serde_json::from_str(text).unwrap();
        assert_eq!(config.config().as_ref().unwrap().volumes().as_ref().unwrap(), &["/v".to_owned()]);
    }
}
