//! An image's config, as its author wrote it. containerd treats missing and null fields as empty (moby#27568), so
//! builders write such configs. Apart from that, only the fields that a container needs are read.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};

/// The members of the document that are read, besides `rootfs`.
const READ: [&str; 4] = ["architecture", "os", "variant", "config"];
/// The members of its `config` that are read.
const READ_OF_CONFIG: [&str; 7] = ["User", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "StopSignal"];

/// Largest config that is cached, in bytes of memory; a real one has a few kilobytes.
const LARGEST_CACHED: usize = 64 << 10;
/// How much of a user's name is cached and reported, in bytes.
const LONGEST_USER: usize = 256;

/// The cached part of a config.
#[derive(Clone, Debug, Default)]
pub(super) struct CachedConfig {
    /// The user that it names, cut to `LONGEST_USER` bytes.
    pub(super) user: String,
    /// `None` for a large config, which is read again for each container that is created from it.
    pub(super) config: Option<Arc<ImageConfiguration>>,
}

impl CachedConfig {
    /// Splits a config into the part that is cached and the diff ids.
    pub(super) fn take(mut config: ImageConfiguration) -> (Self, Vec<String>) {
        let diff_ids = std::mem::take(config.rootfs_mut().diff_ids_mut());
        let user = config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or_default();
        let user = user[..user.floor_char_boundary(LONGEST_USER)].to_owned();
        let config = (in_memory(&config) <= LARGEST_CACHED).then(|| Arc::new(config));
        (Self { user, config }, diff_ids)
    }
}

/// The approximate size of a config in memory, in bytes.
fn in_memory(config: &ImageConfiguration) -> usize {
    let Some(config) = config.config() else { return 0 };
    let lists = [config.env(), config.entrypoint(), config.cmd(), config.volumes()];
    let texts = lists.into_iter().flatten().flatten();
    let single = [config.user(), config.working_dir(), config.stop_signal()].into_iter().flatten();
    texts.chain(single).map(|text| size_of::<String>() + text.len()).sum()
}

/// Converts a JSON document to a config.
///
/// # Errors
/// Why it is not a config, in words.
pub(super) fn parse(document: Value) -> Result<ImageConfiguration, String> {
    let Value::Object(mut document) = document else { return Err("it is not a JSON object".to_owned()) };
    let rootfs = match document.remove("rootfs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(rootfs)) => rootfs,
        Some(_) => return Err("rootfs is not a JSON object".to_owned()),
    };
    let mut read = only(document, &READ);
    for key in ["architecture", "os"] {
        read.entry(key).or_insert(json!(""));
    }
    if let Some(Value::Object(config)) = read.get_mut("config") {
        *config = only(std::mem::take(config), &READ_OF_CONFIG);
    }
    let mut rootfs = only(rootfs, &["type", "diff_ids"]);
    rootfs.entry("type").or_insert(json!("layers"));
    rootfs.entry("diff_ids").or_insert(json!([]));
    read.insert("rootfs".to_owned(), Value::Object(rootfs));
    serde_json::from_value(Value::Object(read)).map_err(|error| error.to_string())
}

/// The members with these names; a null value counts as missing.
fn only(object: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    object.into_iter().filter(|(key, value)| names.contains(&key.as_str()) && !value.is_null()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl CachedConfig {
        /// The part of a config that names a user and nothing else.
        pub(in crate::images) fn of_user(user: &str) -> Self {
            saying(&json!({ "User": user }))
        }
    }

    fn parsed(text: &str) -> Result<ImageConfiguration, String> {
        parse(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_config_as_docker_writes_it_parses() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z",
            "config":{"Env":["A=b"],"Cmd":null,"Entrypoint":null,"Labels":null,"OnBuild":null,"Volumes":{"/v":{}},
            "ExposedPorts":null,"User":"","Healthcheck":{"Test":["NONE"]},"ArgsEscaped":true},
            "rootfs":{"type":"layers","diff_ids":["sha256:x"]},"history":[{"created_by":"x"}]}"#;
        let config = parsed(text).unwrap();
        assert_eq!(config.config().as_ref().unwrap().volumes().as_ref().unwrap(), &["/v".to_owned()]);
        assert_eq!(config.rootfs().diff_ids(), &["sha256:x".to_owned()]);
        assert!(config.history().is_none());
    }

    #[test]
    fn r4_fields_that_are_left_out_or_null_are_empty() {
        for text in [
            "{}",
            r#"{"rootfs":null,"config":null,"history":null,"os":null}"#,
            r#"{"rootfs":{}}"#,
            r#"{"rootfs":{"type":"layers"}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":null}}"#,
            r#"{"rootfs":{"diff_ids":[]},"created":7,"history":"none","config":{"Labels":{"a":null}}}"#,
        ] {
            let config = parsed(text).unwrap();
            assert!(config.rootfs().diff_ids().is_empty(), "{text}");
        }
    }

    fn saying(config: &Value) -> CachedConfig {
        let config = parse(json!({ "config": config, "rootfs": { "diff_ids": ["sha256:x"] } })).unwrap();
        let (cached, diff_ids) = CachedConfig::take(config);
        assert_eq!(diff_ids, ["sha256:x"]);
        cached
    }

    #[test]
    fn t10_a_large_config_is_not_kept() {
        assert!(saying(&json!({ "Env": ["A=b"], "User": "web" })).config.is_some());
        assert!(saying(&json!({ "Env": ["x".repeat(LARGEST_CACHED)] })).config.is_none());
        let empty = vec![""; LARGEST_CACHED / 24];
        assert!(saying(&json!({ "Env": empty, "Cmd": ["x"] })).config.is_none(), "each has its place");
    }

    #[test]
    fn t9_a_user_is_kept_to_its_first_256_bytes() {
        assert_eq!(saying(&json!({ "User": "web:5" })).user, "web:5");
        let long = saying(&json!({ "User": "\u{e4}".repeat(7 << 20) }));
        assert_eq!((long.user.len(), long.config.is_none()), (256, true));
        assert_eq!(saying(&json!({ "User": format!("a{}", "\u{e4}".repeat(200)) })).user.len(), 255);
    }

    #[test]
    fn what_is_no_config_is_an_error() {
        for text in [
            "[]",
            "null",
            "7",
            r#"{"rootfs":[]}"#,
            r#"{"config":"x"}"#,
            r#"{"config":{"Env":"A=b"}}"#,
            r#"{"rootfs":{"diff_ids":{}}}"#,
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
