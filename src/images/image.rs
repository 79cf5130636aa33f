//! An image on this node, as other modules see it.

use super::Unusable;
use super::config::CachedConfig;
use super::manifest::{Contents, Layer};
use crate::api::v1 as cri;
use crate::containerd::Descriptor;

/// An image. Immutable: a change of its names creates a new value.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image's id in every API, `sha256:...`: the digest of its config. The id of an artefact is the digest of its
    /// manifest.
    pub id: String,
    /// `host/path:tag`, sorted.
    pub tags: Vec<String>,
    /// `host/path@digest`, sorted.
    pub repo_digests: Vec<String>,
    /// Name of the committed snapshot that is the parent of a container's root; empty for an image without layers.
    pub chain_id: String,
    /// Compressed size in bytes.
    pub size: u64,
    /// Whether kubelet's garbage collection must spare it.
    pub pinned: bool,
    /// Why no container can be created from it. Such an image is listed all the same: it takes disk space, so kubelet's
    /// garbage collection has to see it.
    pub(super) unusable: Option<Unusable>,
    pub(super) layers: Vec<Layer>,
    pub(super) config_blob: Descriptor,
    pub(super) cached_config: CachedConfig,
    /// All names in containerd's image store, in any form.
    pub(super) names: Vec<String>,
}

/// The user that the config names, as CRI reports it: a number or a name, never both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// The config names no user, so it is root.
    None,
    Uid(i64),
    /// A name, to be looked up in the image's own /etc/passwd.
    Name(String),
}

impl Image {
    pub(super) fn new(contents: &Contents, mut names: Vec<String>, pinned: bool) -> Self {
        names.sort();
        let tags = names.iter().filter(|name| !name.contains('@') && is_named(name)).cloned().collect();
        let repo_digests = names.iter().filter(|name| name.contains('@')).cloned().collect();
        Self {
            id: contents.id.clone(),
            tags,
            repo_digests,
            chain_id: contents.chain_id.clone(),
            size: contents.size,
            pinned,
            unusable: contents.unusable.clone(),
            layers: contents.layers.clone(),
            config_blob: contents.config.clone(),
            cached_config: contents.cached_config.clone(),
            names,
        }
    }

    /// Whether a part of its content was deleted from containerd.
    pub(super) fn content_is_missing(&self) -> bool {
        matches!(self.unusable, Some(Unusable::Missing { .. }))
    }

    /// Whether `text` is its id or a prefix of its id.
    pub(super) fn has_id(&self, text: &str) -> bool {
        let hex = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
        !text.is_empty() && hex(&self.id).starts_with(&hex(text))
    }

    /// The user of the config without its group; a name is cut to 256 bytes.
    #[must_use]
    pub fn user(&self) -> User {
        let user = &self.cached_config.user;
        let user = user.split(':').next().unwrap_or_default();
        match user.parse::<i64>() {
            _ if user.is_empty() => User::None,
            Ok(uid) => User::Uid(uid),
            Err(_) => User::Name(user.to_owned()),
        }
    }

    /// The image as ListImages and ImageStatus return it.
    #[must_use]
    pub fn to_cri(&self) -> cri::Image {
        let (uid, username) = match self.user() {
            User::None => (None, String::new()),
            User::Uid(value) => (Some(cri::Int64Value { value }), String::new()),
            User::Name(name) => (None, name),
        };
        cri::Image {
            id: self.id.clone(),
            repo_tags: self.tags.clone(),
            repo_digests: self.repo_digests.clone(),
            size: self.size,
            uid,
            username,
            spec: Some(cri::ImageSpec { image: self.id.clone(), ..cri::ImageSpec::default() }),
            pinned: self.pinned,
        }
    }
}

/// Whether a name is `repository:tag` rather than a bare digest.
fn is_named(name: &str) -> bool {
    !super::reference::is_digest(name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::images) fn contents(id: &str, user: &str) -> Contents {
        Contents {
            id: id.to_owned(),
            config: Descriptor { digest: id.to_owned(), ..Descriptor::default() },
            cached_config: CachedConfig::of_user(user),
            layers: Vec::new(),
            chain_id: String::new(),
            size: 7,
            unusable: None,
        }
    }

    #[test]
    fn names_are_distinguished_by_form() {
        let id = format!("sha256:{}", "a".repeat(64));
        let names = vec![format!("r/a@{id}"), "r/a:t".to_owned(), id.clone(), "b:t".to_owned()];
        let image = Image::new(&contents(&id, ""), names, false).to_cri();
        assert_eq!(image.repo_tags, ["b:t", "r/a:t"]);
        assert_eq!(image.repo_digests, [format!("r/a@{id}")]);
        assert_eq!(image.id, id);
    }

    #[test]
    fn t9_a_user_is_shown_as_far_as_a_list_bears_it() {
        let user = "\u{1f980}".repeat(2 << 20);
        let image = Image::new(&contents("x", &user), Vec::new(), false);
        assert_eq!(image.to_cri().username, "\u{1f980}".repeat(64));
        assert_eq!(image.user(), User::Name("\u{1f980}".repeat(64)), "no more of it is kept");
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        for (user, expected) in [
            ("", User::None),
            ("1000", User::Uid(1000)),
            ("1000:5", User::Uid(1000)),
            ("web:web", User::Name("web".to_owned())),
            (":5", User::None),
            ("99999999999999999999", User::Name("99999999999999999999".to_owned())),
        ] {
            assert_eq!(Image::new(&contents("x", user), Vec::new(), false).user(), expected, "{user}");
        }
    }
}
