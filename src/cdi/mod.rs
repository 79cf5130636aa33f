//! The Container Device Interface: vendors' specs of devices, and the edits to a container's OCI spec for the devices
//! that it requests (github.com/cncf-tags/container-device-interface, 1.1.0).
//!
//! The directories are read whenever a container requests a device, and at no other time. A driver writes its spec
//! immediately before kubelet creates the container, so a copy that a watch maintains could be outdated; and nodes
//! without devices need neither a copy nor a watch (docs/adr/0006). CreateContainer calls this module. It must not
//! change the OCI spec: that is the task of `spec`.

mod document;
mod host;
mod request;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::joined::run_blocking;
use document::Document;
pub use document::{ContainerEdits, DeviceNode, Hook, HookPoint, IntelRdt, Mount, NetDevice};
pub use request::{Request, requests};

/// Why a container cannot get its devices.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// For example `config.CDI_devices[0].name`.
        field: String,
        /// What is wrong with the field.
        problem: String,
    },
    /// No spec contains the device.
    #[error("{field}: there is no CDI device {name} in {searched}")]
    Unknown {
        /// For example `config.CDI_devices[0].name`.
        field: String,
        /// The name of the device.
        name: String,
        /// The directories, and which of their files could not be read.
        searched: String,
    },
    /// The node lacks a device that the spec names.
    #[error("{operation} {}, which a CDI spec names", path.display())]
    Host {
        /// The operation that failed.
        operation: &'static str,
        /// The device on the host.
        path: PathBuf,
        source: io::Error,
    },
}

/// The edits for the requested devices, with the numbers that the device nodes have on this host.
///
/// # Errors
/// [`Error::Unknown`] names the field and the device; [`Error::Invalid`] a device that two files define;
/// [`Error::Host`] a device node.
pub async fn resolve(directories: &[PathBuf], requests: Vec<Request>) -> Result<ContainerEdits, Error> {
    if requests.is_empty() {
        return Ok(ContainerEdits::default());
    }
    let directories = directories.to_vec();
    let work = move || {
        let mut edits = Specs::read(&directories).edits(&requests)?;
        host::complete(&mut edits)?;
        Ok(edits)
    };
    run_blocking(work).await
}

/// All devices of all directories.
struct Specs {
    devices: HashMap<String, Found>,
    /// For errors: the directories, and which of their files could not be read.
    searched: String,
}

struct Found {
    /// Index of its directory: the devices of a later directory replace those of an earlier one.
    priority: usize,
    document: Arc<Document>,
    /// Index of the device in the document.
    index: usize,
    /// Another file of the same directory that has the same device, so that it is ambiguous.
    conflict: Option<PathBuf>,
}

impl Specs {
    fn read(directories: &[PathBuf]) -> Self {
        let (mut devices, mut unread) = (HashMap::new(), Vec::new());
        for (priority, directory) in directories.iter().enumerate() {
            for path in files(directory) {
                match Document::read(&path) {
                    Ok(document) => add(&mut devices, priority, Arc::new(document)),
                    Err(problem) => unread.push(format!("{}: {problem}", path.display())),
                }
            }
        }
        let names: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        let mut searched = if names.is_empty() { "cdi.spec_dirs, which is empty".to_owned() } else { names.join(", ") };
        if !unread.is_empty() {
            searched = format!("{searched} (cannot be read: {})", unread.join("; "));
        }
        Self { devices, searched }
    }

    fn edits(&self, requests: &[Request]) -> Result<ContainerEdits, Error> {
        let (mut edits, mut used) = (ContainerEdits::default(), Vec::new());
        for request in requests {
            let found = self.devices.get(&request.name).ok_or_else(|| Error::Unknown {
                field: request.field.clone(),
                name: request.name.clone(),
                searched: self.searched.clone(),
            })?;
            if let Some(other) = &found.conflict {
                let (one, other) = (found.document.path.display(), other.display());
                let problem = format!("CDI device {} is in {one} and in {other}", request.name);
                return Err(Error::Invalid { field: request.field.clone(), problem });
            }
            // The edits for all devices of a spec are applied once.
            if !used.iter().any(|document| Arc::ptr_eq(document, &found.document)) {
                edits.append(&found.document.container_edits);
                used.push(Arc::clone(&found.document));
            }
            edits.append(&found.document.devices[found.index].container_edits);
        }
        Ok(edits)
    }
}

fn add(devices: &mut HashMap<String, Found>, priority: usize, document: Arc<Document>) {
    for (index, device) in document.devices.iter().enumerate() {
        let name = format!("{}={}", document.kind, device.name);
        let found = Found { priority, document: Arc::clone(&document), index, conflict: None };
        match devices.get_mut(&name) {
            Some(other) if other.priority == priority => other.conflict = Some(document.path.clone()),
            _ => drop(devices.insert(name, found)),
        }
    }
}

/// The spec files of a directory, sorted; empty if the directory does not exist.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension().and_then(OsStr::to_str).is_some_and(|end| ["json", "yaml", "yml"].contains(&end))
    });
    paths.sort();
    paths
}

#[cfg(test)]
mod tests;
