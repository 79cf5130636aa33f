//! Reading the seccomp profiles that kubelet names.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::run_pod_sandbox::blocking;
use super::{Error, Result};

/// Largest profile that is read; real ones are some kilobytes.
const LIMIT: u64 = 1 << 20;

/// Reads a profile. One that is missing is an error, never unconfined.
pub(super) async fn read(path: Option<PathBuf>) -> Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let at = path.clone();
    let text = blocking(move || bounded(&at)).await.map_err(|source| Error::Invalid {
        field: "config.linux.security_context.seccomp.localhost_ref",
        problem: format!("{}: {source}", path.display()),
    })?;
    Ok(Some(text))
}

fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}
