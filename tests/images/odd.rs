//! A repository for blobs and manifests that no builder creates. The test writes them directly to the files of
//! docker-registry, because its API would refuse some of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bed::{Bed, hex, tar};

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub struct Repository {
    /// `host/path`.
    pub name: String,
    storage: PathBuf,
    path: String,
    roots: PathBuf,
}

impl Repository {
    /// A repository in a registry that [`Bed::registry`] started.
    pub fn new(bed: &Bed, host: &str, path: &str) -> Self {
        let port = host.rsplit_once(':').unwrap().1;
        let storage = bed.dir.path().join(format!("registry-{port}/data/docker/registry/v2"));
        let roots = bed.dir.path().join("roots");
        Self { name: format!("{host}/{path}"), storage, path: path.to_owned(), roots }
    }

    /// Stores a blob and returns its descriptor.
    pub fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let hex = hex(content);
        put(&self.storage.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2])), content);
        self.link(&format!("_layers/sha256/{hex}"), &hex);
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len()})
    }

    /// A layer with an /etc/passwd that names a user.
    pub fn layer(&self, media_type: &str, user: &str) -> Value {
        let root = self.roots.join(user);
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), format!("{user}:x:1000:1000::/:/bin/sh\n")).unwrap();
        self.blob(media_type, &tar(&root))
    }

    /// Stores an image's config for an architecture. The layers' digests are also their diff ids, as they are not
    /// compressed.
    pub fn config(&self, architecture: &str, layers: &[&Value]) -> Value {
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config =
            json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        self.blob(CONFIG, config.to_string().as_bytes())
    }

    /// Stores a manifest with a tag and returns its descriptor.
    pub fn manifest(&self, tag: &str, config: &Value, blobs: &[&Value]) -> Value {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs});
        self.tagged(tag, MANIFEST, &manifest)
    }

    /// Stores an index of manifests with a tag and returns its descriptor.
    pub fn index(&self, tag: &str, manifests: &[Value]) -> Value {
        self.tagged(tag, INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    /// `host/path:tag`.
    pub fn tag(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name)
    }

    fn tagged(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let descriptor = self.blob(media_type, document.to_string().as_bytes());
        let hex = hex(document.to_string().as_bytes());
        self.link(&format!("_manifests/revisions/sha256/{hex}"), &hex);
        self.link(&format!("_manifests/tags/{tag}/current"), &hex);
        self.link(&format!("_manifests/tags/{tag}/index/sha256/{hex}"), &hex);
        descriptor
    }

    fn link(&self, directory: &str, hex: &str) {
        let path = self.storage.join("repositories").join(&self.path).join(directory).join("link");
        put(&path, format!("sha256:{hex}").as_bytes());
    }
}

/// Adds the platform to a manifest's descriptor, for an index.
pub fn for_platform(mut manifest: Value, architecture: &str) -> Value {
    manifest["platform"] = json!({"os": "linux", "architecture": architecture});
    manifest
}

fn put(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}
