//! The keys of the file, each with what it takes, in the words of an error. The tests compare this list with the types
//! that the file is read into, and with the documentation.

const PATH: &str = "an absolute path in quotation marks";
const PATHS: &str = "a list of absolute paths, such as [\"/a\", \"/b\"]";
const TEXT: &str = "a text in quotation marks";
const TEXTS: &str = "a list of texts, such as [\"a\", \"b\"]";
const SWITCH: &str = "true or false";
const FROM_0: &str = "a whole number, 0 or more";
const FROM_1: &str = "a whole number from 1 to 1048576";

/// Stands for the name of a runtime handler.
pub(super) const NAME: &str = "NAME";

/// The full name of each key, and what it takes.
#[rustfmt::skip]
pub(super) const KEYS: &[(&str, &str)] = &[
    ("socket", PATH),
    ("admin_socket", PATH),
    ("root", PATH),
    ("state", PATH),
    ("netns_dir", PATH),
    ("runtime_name", TEXT),
    ("missing_host_path", "\"create\" or \"error\""),
    ("device_ownership_from_security_context", SWITCH),
    ("seccomp_profile_roots", PATHS),
    ("allow_foreign_pods", SWITCH),
    ("default_runtime", "the name of a runtime handler in quotation marks"),
    ("log.level", "a level in quotation marks, such as \"info\""),
    ("log.format", "\"text\" or \"json\""),
    ("metrics.address", "\"IP:PORT\" or \"unix:///PATH\""),
    ("traces.endpoint", "\"http://IP:PORT\""),
    ("traces.sampling_rate_per_million", "a whole number from 0 to 1000000"),
    ("containerd.address", PATH),
    ("containerd.namespace", TEXT),
    ("cni.conf_dir", PATH),
    ("cni.bin_dirs", PATHS),
    ("cni.cache_dir", PATH),
    ("cni.max_conf_num", FROM_0),
    ("cni.conf_template", PATH),
    ("cni.ip_pref", "\"ipv4\", \"ipv6\" or \"cni\""),
    ("images.registry_config_path", "absolute paths, separated by colons, in quotation marks"),
    ("images.snapshotter", TEXT),
    ("images.pinned_images", TEXTS),
    ("images.min_throughput", "a whole number of bytes per second, 0 or more"),
    ("images.throughput_window", "a whole number of seconds from 0 to 86400"),
    ("limits.execs", FROM_1),
    ("limits.execs_per_container", FROM_1),
    ("limits.exec_sync_reserve", "a whole number from 0 to 1024"),
    ("limits.streams", FROM_1),
    ("limits.streams_per_object", FROM_1),
    ("limits.exec_reply_budget", "a whole number of MiB from 17 to 1048576"),
    ("cdi.spec_dirs", PATHS),
    ("cdi.annotations", SWITCH),
    ("apparmor.enabled", SWITCH),
    ("selinux.enabled", SWITCH),
    ("selinux.category_range", "a whole number from 2 to 1024"),
    ("streaming.address", "an IP address in quotation marks"),
    ("streaming.port", "a whole number from 0 to 65535"),
    ("streaming.tls_cert_file", PATH),
    ("streaming.tls_key_file", PATH),
    ("streaming.idle_timeout", "a duration in quotation marks, such as \"30s\" or \"4h\""),
    ("runtimes.NAME.type", TEXT),
    ("runtimes.NAME.options", "a table of the runtime's options"),
    ("runtimes.NAME.base_runtime_spec", PATH),
    ("runtimes.NAME.snapshotter", TEXT),
    ("runtimes.NAME.cni_conf_dir", PATH),
    ("runtimes.NAME.cni_max_conf_num", FROM_0),
    ("runtimes.NAME.privileged_without_host_devices", SWITCH),
    ("runtimes.NAME.pod_annotations", TEXTS),
    ("runtimes.NAME.container_annotations", TEXTS),
    ("runtimes.NAME.virtual_machine", SWITCH),
];

/// What a key or a table takes; `None` if there is none at this place of the file.
pub(super) fn takes(place: &[String]) -> Option<String> {
    let name = listed(place);
    if let Some((_, takes)) = KEYS.iter().find(|(key, _)| *key == name) {
        return Some((*takes).to_owned());
    }
    let header = if name == "runtimes" { "runtimes.NAME".to_owned() } else { place.join(".") };
    is_table(place).then(|| format!("a table, under a line [{header}]"))
}

/// Whether a table of the file has this name.
pub(super) fn is_table(place: &[String]) -> bool {
    !children(&listed(place)).is_empty()
}

/// What may be there instead of a key that does not exist: the key of the same name in another table, or else all that
/// its own table has.
pub(super) fn instead(place: &[String]) -> String {
    let wanted = place.last().map(String::as_str).unwrap_or_default();
    let same: Vec<&str> =
        KEYS.iter().map(|(key, _)| *key).filter(|key| key.rsplit('.').next() == Some(wanted)).collect();
    if !same.is_empty() {
        return format!("did you mean {}?", same.join(" or "));
    }
    let table = &place[..place.len().saturating_sub(1)];
    let known = children(&listed(table)).join(", ");
    if table.is_empty() { format!("there are {known}") } else { format!("[{}] has {known}", table.join(".")) }
}

/// The name in the list of keys: that of a runtime handler is replaced.
fn listed(place: &[String]) -> String {
    let is_handler = |at: usize| at == 1 && place[0] == "runtimes";
    let parts = place.iter().enumerate().map(|(at, part)| if is_handler(at) { NAME } else { part.as_str() });
    parts.collect::<Vec<_>>().join(".")
}

/// What a table has, or the file itself for an empty name: keys and tables, each once, in the list's order.
fn children(table: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    for (key, _) in KEYS {
        let below =
            if table.is_empty() { Some(*key) } else { key.strip_prefix(table).and_then(|key| key.strip_prefix('.')) };
        let child = below.and_then(|below| below.split('.').next());
        if let Some(child) = child
            && !found.contains(&child)
        {
            found.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests;
