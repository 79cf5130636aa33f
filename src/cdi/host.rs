//! Fills in what a spec leaves to the host: the type and numbers of its device nodes.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::{ContainerEdits, DeviceNode, Error};

/// Fills in the missing fields of the device nodes.
pub(super) fn complete(edits: &mut ContainerEdits) -> Result<(), Error> {
    for node in &mut edits.device_nodes {
        if node.host_path.as_os_str().is_empty() {
            node.host_path.clone_from(&node.path);
        }
        // A FIFO has no device numbers.
        let known = node.kind == "p" || !node.kind.is_empty() && node.major != 0;
        if !known {
            fill_from_host(node)?;
        }
    }
    Ok(())
}

fn fill_from_host(node: &mut DeviceNode) -> Result<(), Error> {
    let failed = |operation, source| Error::Host { operation, path: node.host_path.clone(), source };
    let stat = std::fs::metadata(&node.host_path).map_err(|source| failed("stat", source))?;
    let file_type = stat.file_type();
    let kind = match () {
        () if file_type.is_char_device() => "c",
        () if file_type.is_block_device() => "b",
        () if file_type.is_fifo() => "p",
        () => return Err(failed("use as a device", io::ErrorKind::InvalidInput.into())),
    };
    // `u` is an unbuffered `c`; the kernel does not distinguish them.
    if !node.kind.is_empty() && node.kind != kind && (node.kind.as_str(), kind) != ("u", "c") {
        let problem = format!("it is of type {kind}, the spec says {}", node.kind);
        return Err(failed("use as a device", io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    if node.kind.is_empty() {
        kind.clone_into(&mut node.kind);
    }
    if node.major == 0 {
        node.major = rustix::fs::major(stat.rdev()).into();
        node.minor = rustix::fs::minor(stat.rdev()).into();
    }
    Ok(())
}
