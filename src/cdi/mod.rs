//! The Container Device Interface: vendors' specs of devices, and what a container's request for
//! some of them changes in its OCI spec (github.com/cncf-tags/container-device-interface, 1.1.0).
//!
//! The directories are read when a container asks for a device, and at no other time: a driver
//! writes its spec an instant before kubelet creates the container, so that a copy kept by a
//! watch could be the old one, and nothing is kept or watched for nodes without devices
//! (docs/adr/0006). Who calls: CreateContainer. It must not change a spec: that is `spec`'s.

mod document;
mod host;
mod request;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use document::Document;
pub use document::{ContainerEdits, DeviceNode, Hook, HookPoint, IntelRdt, Mount, NetDevice};
pub use request::{Request, requests};

/// Why a container cannot have its devices.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// As `config.CDI_devices[0].name`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No spec has the device.
    #[error("{field}: there is no CDI device {name} in {looked}")]
    Unknown {
        /// As `config.CDI_devices[0].name`.
        field: String,
        /// The device.
        name: String,
        /// The directories, and what of them could not be read.
        looked: String,
    },
    /// The node lacks what the spec promises.
    #[error("{operation} {}, which a CDI spec names", path.display())]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The device on the host.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a request's devices change, with the device nodes' numbers as they are on this host.
///
/// # Errors
/// [`Error::Unknown`] names the field and the device; [`Error::Host`] a device node.
pub async fn resolve(directories: &[PathBuf], requests: Vec<Request>) -> Result<ContainerEdits, Error> {
    if requests.is_empty() {
        return Ok(ContainerEdits::default());
    }
    let directories = directories.to_vec();
    let work = tokio::task::spawn_blocking(move || {
        let mut edits = Specs::read(&directories).edits(&requests)?;
        host::complete(&mut edits)?;
        Ok(edits)
    });
    let failed = |error| Error::Host { operation: "read", path: PathBuf::new(), source: io::Error::other(error) };
    work.await.map_err(failed)?
}

/// All devices of all directories.
struct Specs {
    devices: HashMap<String, Found>,
    /// The directories, and what in them could not be read, for errors.
    looked: String,
}

struct Found {
    /// Place of its directory: a later one's devices take the place of an earlier one's.
    priority: usize,
    document: Arc<Document>,
    /// In the document.
    index: usize,
    /// Another file of the same directory has the name too: nobody can say which is meant.
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
        let mut looked = if names.is_empty() { "cdi.spec_dirs, which is empty".to_owned() } else { names.join(", ") };
        if !unread.is_empty() {
            looked = format!("{looked} (cannot be read: {})", unread.join("; "));
        }
        Self { devices, looked }
    }

    fn edits(&self, requests: &[Request]) -> Result<ContainerEdits, Error> {
        let (mut edits, mut used) = (ContainerEdits::default(), Vec::new());
        for request in requests {
            let found = self.devices.get(&request.name).ok_or_else(|| Error::Unknown {
                field: request.field.clone(),
                name: request.name.clone(),
                looked: self.looked.clone(),
            })?;
            if let Some(other) = &found.conflict {
                let (one, other) = (found.document.path.display(), other.display());
                let problem = format!("CDI device {} is in {one} and in {other}", request.name);
                return Err(Error::Invalid { field: request.field.clone(), problem });
            }
            // What a spec says of all its devices counts once.
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

/// The specs of a directory, sorted; none of one that is not there.
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
