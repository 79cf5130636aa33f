//! The devices that a container requests, by qualified name: `vendor/class=device`.

use std::collections::HashSet;

use super::Error;
use crate::api::v1::ContainerConfig;

/// Prefix of the container annotations by which device plugins request devices.
const ANNOTATION: &str = "cdi.k8s.io/";

/// A device that a container requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// For example `vendor.com/gpu=0`.
    pub name: String,
    /// The field of the request that names it.
    pub field: String,
}

/// The devices of a container: those of its CDI field, then those of its own annotations. A device that is named twice
/// counts once. The pod's annotations are controlled by its tenant and never used (docs/rulings.md 28).
///
/// # Errors
/// [`Error::Invalid`] for a name that is not a qualified name, and for annotations when they are disabled.
pub fn requests(config: &ContainerConfig, annotations: bool) -> Result<Vec<Request>, Error> {
    let fields = config.cdi_devices.iter().enumerate();
    let mut all: Vec<Request> = fields
        .map(|(index, device)| Request {
            name: device.name.clone(),
            field: format!("config.CDI_devices[{index}].name"),
        })
        .collect();
    let mut keys: Vec<&String> = config.annotations.keys().filter(|key| key.starts_with(ANNOTATION)).collect();
    // Sorted, so that the same request always results in the same spec.
    keys.sort();
    for key in keys {
        let field = format!("config.annotations[{key}]");
        if !annotations {
            // Without its devices, the container would start and then fail in ways that are hard to understand.
            return Err(Error::Invalid { field, problem: "cdi.annotations is off".to_owned() });
        }
        let names = config.annotations[key].split(',');
        all.extend(names.map(|name| Request { name: name.to_owned(), field: field.clone() }));
    }
    for request in &all {
        check_name(&request.name).map_err(|problem| Error::Invalid { field: request.field.clone(), problem })?;
    }
    let mut known = HashSet::new();
    all.retain(|request| known.insert(request.name.clone()));
    Ok(all)
}

fn check_name(name: &str) -> Result<(), String> {
    let parts = name.split_once('=').ok_or_else(|| format!("{name:?} is not vendor/class=device"))?;
    check_kind(parts.0)?;
    check_device(parts.1)
}

/// Checks a `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or_else(|| format!("{kind:?} is not vendor/class"))?;
    let begins = |first: char| first.is_ascii_alphabetic();
    let good = fits(vendor, "_-.", begins) && fits(class, "_-.", begins);
    if good { Ok(()) } else { Err(format!("{kind:?} is not vendor/class")) }
}

/// Checks the name of a device.
pub(super) fn check_device(name: &str) -> Result<(), String> {
    let good = fits(name, "_-.:", |first| first.is_ascii_alphanumeric());
    if good { Ok(()) } else { Err(format!("{name:?} is not the name of a device")) }
}

/// Whether a text consists of letters, digits and the characters in `more`, which may not be at either end.
fn fits(text: &str, more: &str, begins: impl Fn(char) -> bool) -> bool {
    text.starts_with(begins)
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || more.contains(one))
}
