//! Reads what a record's target means: index -> manifest -> config. The image's author wrote all of these documents, so
//! every read has a limit, and nothing in them is trusted.
//!
//! An image that cannot be used has contents too, with the reason: it takes disk space, so it has to be listed.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::config::CachedConfig;
use super::document::NotRead;
use super::media::{is_image_config, is_layer};
use super::reference::is_digest;
use super::{Unusable, config, document, platform};
use crate::containerd::{self, Containerd, Descriptor, Kind, Platform};

/// Most entries of an index: the largest that builders create has about thirty platforms, with an attestation for each.
/// All entries are examined, and the manifest of an entry without a platform is read.
const MOST_ENTRIES: usize = 1000;
/// Most layers of an image: overlayfs accepts 500, Docker creates 127. Each layer has an archive, a snapshot and a
/// mount.
const MOST_LAYERS: usize = 1000;
/// Most documents from the record's target down to the manifest, so at most three nested indexes.
const DEEPEST: usize = 4;
/// For how many entries of an index that omits their platform their config is read instead; further ones are ignored.
const MOST_CONFIG_LOOKUPS: usize = 16;

/// What the target of an image record stands for on this host's platform: one manifest with its config and layers. This
/// never changes, since the documents refer to each other by digests.
#[derive(Debug)]
pub(super) struct Contents {
    /// The image's id: the digest of its config. The id of an artefact is the digest of its manifest, since many
    /// artefacts share one empty config (docs/adr/0016). The id of an image that cannot be read is the digest of the
    /// last document that is known.
    pub(super) id: String,
    /// Descriptor of the config.
    pub(super) config: Descriptor,
    pub(super) cached_config: CachedConfig,
    /// The layers from the bottom up, as the registry has them.
    pub(super) layers: Vec<Layer>,
    /// Name of the snapshot with the image's root file system; empty for an image without layers.
    pub(super) chain_id: String,
    /// Bytes of the manifest, the config, the layers and all else that the manifest names, as the registry has them.
    pub(super) size: u64,
    /// Why no container can be created from it.
    pub(super) unusable: Option<Unusable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// The layer's archive.
    pub(super) blob: Descriptor,
    /// Digest of the uncompressed archive.
    pub(super) diff_id: String,
    /// Name of the snapshot with this layer and all layers below it.
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

/// The platform of an index entry, or of an image's config.
#[derive(Clone, Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// Why the reading of an image ended early.
enum ReadFailure {
    /// The image cannot be used; it is listed as such.
    Image(Unusable),
    /// containerd did not respond, so nothing is known about the image.
    Containerd(containerd::Error),
}

/// What has been read of an image so far.
struct Partial {
    id: String,
    config: Descriptor,
    size: u64,
}

impl Contents {
    /// Reads what a target means on a host that runs the platforms `host`, the best first.
    ///
    /// # Errors
    /// The error of containerd when it could not be reached.
    pub(super) async fn read(
        containerd: &Containerd,
        target: &Descriptor,
        host: &[Platform],
    ) -> Result<Self, containerd::Error> {
        let mut partial =
            Partial { id: target.digest.clone(), config: Descriptor::default(), size: bytes(target.size).max(1) };
        match partial.walk(containerd, host).await {
            Ok(contents) => Ok(contents),
            Err(ReadFailure::Image(unusable)) => Ok(Self::unusable(partial, unusable)),
            Err(ReadFailure::Containerd(error)) => Err(error),
        }
    }

    /// Whether the whole image could be read and is well-formed.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.unusable, None | Some(Unusable::Artefact { .. }))
    }

    fn unusable(partial: Partial, unusable: Unusable) -> Self {
        Self {
            id: partial.id,
            config: partial.config,
            cached_config: CachedConfig::default(),
            layers: Vec::new(),
            chain_id: String::new(),
            size: partial.size,
            unusable: Some(unusable),
        }
    }
}

impl Partial {
    async fn walk(&mut self, containerd: &Containerd, host: &[Platform]) -> Result<Contents, ReadFailure> {
        let target = self.id.clone();
        let mut digest = target.clone();
        for _ in 0..DEEPEST {
            let document: Document = read_document(containerd, &digest).await?;
            if let Some(entries) = document.manifests {
                if document.layers.is_some() || document.config.is_some() {
                    return Err(malformed(&digest, "both an index and a manifest (CVE-2021-41190)"));
                }
                if entries.len() > MOST_ENTRIES {
                    let reason = format!("an index of {} entries, more than {MOST_ENTRIES}", entries.len());
                    return Err(malformed(&digest, reason));
                }
                let entry = choose(containerd, entries, host).await?;
                self.size = self.size.saturating_add(bytes(entry.size));
                digest = entry.digest;
                continue;
            }
            let config = document.config.ok_or_else(|| malformed(&digest, "neither an index nor a manifest"))?;
            if !is_digest(&config.digest) {
                return Err(malformed(&digest, format!("its config {:?} is not a digest", config.digest)));
            }
            return self.manifest(containerd, digest, config, document.layers.unwrap_or_default()).await;
        }
        Err(malformed(&target, format!("{DEEPEST} or more indexes within each other")))
    }

    async fn manifest(
        &mut self,
        containerd: &Containerd,
        digest: String,
        config: Entry,
        blobs: Vec<Entry>,
    ) -> Result<Contents, ReadFailure> {
        let sizes = blobs.iter().map(|blob| bytes(blob.size)).chain([bytes(config.size)]);
        self.size = sizes.fold(self.size, u64::saturating_add);
        self.config = config.into();
        let layers: Vec<Entry> = blobs.iter().filter(|blob| is_layer(&blob.media_type)).cloned().collect();
        if layers.len() > MOST_LAYERS {
            return Err(malformed(&digest, format!("{} layers, more than {MOST_LAYERS}", layers.len())));
        }
        // An attestation has the config of an image, but its diff ids belong to blobs that are not layers.
        if !is_image_config(&self.config.media_type) || (layers.is_empty() && !blobs.is_empty()) {
            self.id = digest;
            return Err(ReadFailure::Image(Unusable::Artefact { config: self.config.media_type.clone() }));
        }
        self.id.clone_from(&self.config.digest);
        self.image(containerd, layers).await
    }

    async fn image(&self, containerd: &Containerd, blobs: Vec<Entry>) -> Result<Contents, ReadFailure> {
        let keep = |document| config::parse(document).map(CachedConfig::take);
        let (cached_config, diff_ids) = read_and(containerd, &self.id, keep).await?;
        if diff_ids.len() != blobs.len() {
            return Err(malformed(&self.id, format!("{} diff ids for {} layers", diff_ids.len(), blobs.len())));
        }
        if let Some(bad) = diff_ids.iter().find(|id| !is_digest(id)) {
            return Err(malformed(&self.id, format!("diff id {bad:?} is not a digest")));
        }
        let chain_ids = chain_ids(&diff_ids);
        let chain_id = chain_ids.last().cloned().unwrap_or_default();
        let layers = blobs.into_iter().zip(diff_ids).zip(chain_ids);
        let layers = layers.map(|((blob, diff_id), chain_id)| Layer { blob: blob.into(), diff_id, chain_id }).collect();
        Ok(Contents {
            id: self.id.clone(),
            config: self.config.clone(),
            cached_config,
            layers,
            chain_id,
            size: self.size,
            unusable: None,
        })
    }
}

fn malformed(digest: &str, reason: impl Into<String>) -> ReadFailure {
    ReadFailure::Image(Unusable::Malformed { digest: digest.to_owned(), reason: reason.into() })
}

async fn read_document<T>(containerd: &Containerd, digest: &str) -> Result<T, ReadFailure>
where
    T: serde::de::DeserializeOwned + Send + 'static,
{
    read_and(containerd, digest, Ok).await
}

/// Reads a document, of which `keep` extracts a part.
async fn read_and<T, K>(
    containerd: &Containerd,
    digest: &str,
    keep: impl FnOnce(T) -> Result<K, String> + Send + 'static,
) -> Result<K, ReadFailure>
where
    T: serde::de::DeserializeOwned,
    K: Send + 'static,
{
    document::read(containerd, digest, keep).await.map_err(|why| match why {
        NotRead::Malformed(reason) => malformed(digest, reason),
        NotRead::Containerd(error) => match error.kind() {
            Kind::Unavailable | Kind::Cancelled => ReadFailure::Containerd(error),
            Kind::NotFound => ReadFailure::Image(Unusable::Missing { digest: digest.to_owned(), platform: None }),
            // Whatever the error: the image takes disk space, so it is listed, and it must not keep other images from
            // being listed.
            _ => malformed(digest, error.to_string()),
        },
    })
}

/// The best entry of an index whose manifest is on this node. Usually that is only the manifest of the pulled platform.
async fn choose(containerd: &Containerd, entries: Vec<Entry>, host: &[Platform]) -> Result<Entry, ReadFailure> {
    let (mut ranked, mut available, mut missing, mut config_lookups) = (Vec::new(), Vec::new(), None, 0);
    for entry in entries {
        let Some(of_entry) = entry.platform.clone() else {
            config_lookups += 1;
            if config_lookups > MOST_CONFIG_LOOKUPS {
                continue;
            }
            // An index may omit the platform. An entry whose config does not name another platform fits, but ranks
            // behind all entries that name theirs.
            let own = platform_of(containerd, &entry.digest).await?;
            match own.filter(platform::is_known) {
                Some(own) if platform::rank(&own, host).is_none() => available.push(own),
                _ => ranked.push((host.len() + 1, entry, None)),
            }
            continue;
        };
        let of_entry = Platform::from(of_entry);
        ranked.extend(platform::rank(&of_entry, host).map(|rank| (rank, entry, Some(of_entry.clone()))));
        if platform::is_known(&of_entry) && !available.contains(&of_entry) {
            available.push(of_entry);
        }
    }
    ranked.sort_by_key(|(rank, _, _)| *rank);
    for (rank, entry, platform) in ranked {
        match read_document::<serde::de::IgnoredAny>(containerd, &entry.digest).await {
            Ok(_) => return Ok(entry),
            // This entry requires more than every processor of the architecture has. It is never pulled, so it is not
            // missed.
            Err(ReadFailure::Image(Unusable::Missing { .. })) if rank == host.len() => {}
            Err(ReadFailure::Image(Unusable::Missing { digest, .. })) => {
                missing = missing.or(Some(Unusable::Missing { digest, platform }))
            }
            Err(failure) => return Err(failure),
        }
    }
    let nothing_fits = || Unusable::Platform { available, host: host.first().cloned().unwrap_or_default() };
    Err(ReadFailure::Image(missing.unwrap_or_else(nothing_fits)))
}

/// The platform that the config of a manifest names.
async fn platform_of(containerd: &Containerd, manifest: &str) -> Result<Option<Platform>, ReadFailure> {
    let config = match read_document::<Document>(containerd, manifest).await {
        Ok(Document { config: Some(config), .. }) if is_image_config(&config.media_type) => config.digest,
        Ok(_) | Err(ReadFailure::Image(_)) => return Ok(None),
        Err(failure @ ReadFailure::Containerd(_)) => return Err(failure),
    };
    match read_document::<EntryPlatform>(containerd, &config).await {
        Ok(platform) => Ok(Some(platform.into())),
        Err(ReadFailure::Image(_)) => Ok(None),
        Err(failure @ ReadFailure::Containerd(_)) => Err(failure),
    }
}

/// The chain ids of a stack of layers, as the OCI image specification defines them.
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

impl From<EntryPlatform> for Platform {
    fn from(platform: EntryPlatform) -> Self {
        Self { os: platform.os, architecture: platform.architecture, variant: platform.variant }
    }
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
}
