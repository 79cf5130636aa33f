//! Media types: which blobs of a manifest are layers of a root file system, and which configs belong to images. The
//! rules are those of containerd, which unpacks no other blobs.

/// Prefix of all layer types of OCI.
const OCI_LAYER: &str = "application/vnd.oci.image.layer.";
/// Layer types of Docker and EROFS; each may have suffixes.
const OTHER_LAYERS: [&str; 6] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.erofs.layer.v1",
];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Whether a blob is a layer. A manifest may also have blobs that are not layers and have no diff id, such as a
/// WebAssembly module.
pub(super) fn is_layer(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    media_type.starts_with(OCI_LAYER) || OTHER_LAYERS.contains(&base)
}

/// Whether a config belongs to an image. All others, such as `application/vnd.oci.empty.v1+json`, belong to artefacts.
pub(super) fn is_image_config(media_type: &str) -> bool {
    CONFIGS.contains(&media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_only_archives_of_a_root_are_layers() {
        for layer in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar+zstd",
            "application/vnd.erofs.layer.v1",
        ] {
            assert!(is_layer(layer), "{layer}");
        }
        for other in [
            "",
            "application/vnd.wasm.content.layer.v1+wasm",
            "application/wasm",
            "application/vnd.in-toto+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.empty.v1+json",
            "application/octet-stream",
        ] {
            assert!(!is_layer(other), "{other}");
        }
    }

    #[test]
    fn r5_an_empty_config_is_no_images() {
        assert!(is_image_config("application/vnd.oci.image.config.v1+json"));
        assert!(!is_image_config("application/vnd.oci.empty.v1+json") && !is_image_config(""));
    }
}
