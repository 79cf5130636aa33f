//! Replaces `src/cdi/`: only the parsers of specs and device names.

#[path = "../../src/cdi/document.rs"]
mod document;
#[path = "../../src/cdi/request.rs"]
mod request;

use std::collections::HashSet;

use crate::api::v1::{CdiDevice, ContainerConfig};
use document::{ContainerEdits, Document};

#[derive(Debug)]
pub enum Error {
    Invalid { field: String, problem: String },
}

/// Parses a spec, as JSON and as YAML. Each device of an accepted spec can be requested by its name, and all paths of
/// its edits are absolute.
///
/// # Panics
/// If a device cannot be requested by its name, or a path of an edit is relative.
pub fn spec(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for json in [true, false] {
        let Ok(document) = Document::parse(text, json) else { continue };
        let mut names = HashSet::new();
        check(&document.container_edits);
        for device in &document.devices {
            assert!(names.insert(&device.name), "{} is there twice", device.name);
            check(&device.container_edits);
            let name = format!("{}={}", document.kind, device.name);
            let config = ContainerConfig { cdi_devices: vec![CdiDevice { name }], ..ContainerConfig::default() };
            assert_eq!(request::requests(&config, false).map(|all| all.len()).ok(), Some(1));
        }
    }
}

fn check(edits: &ContainerEdits) {
    assert!(edits.device_nodes.iter().all(|node| node.path.is_absolute()));
    assert!(edits.mounts.iter().all(|mount| mount.container_path.is_absolute()));
    assert!(edits.hooks.iter().all(|hook| hook.path.is_absolute()));
    assert!(edits.env.iter().all(|entry| entry.find('=').is_some_and(|at| at > 0)));
}
