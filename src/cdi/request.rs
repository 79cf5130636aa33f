//! Which devices a container asks for: qualified names, `vendor/class=device`.

use std::collections::HashSet;

use super::Error;
use crate::api::v1::ContainerConfig;

/// Device plugins ask by annotations of the container with this prefix.
const ANNOTATION: &str = "cdi.k8s.io/";

/// A device that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// As `vendor.com/gpu=0`.
    pub name: String,
    /// Where it is asked for.
    pub field: String,
}

/// The devices of a container: those of its field, then those of its own annotations. One that
/// is named twice counts once. The pod's annotations are its tenant's words and never looked at
/// (rulings.md 28).
///
/// # Errors
/// [`Error::Invalid`] for what is no qualified name, and for annotations when they are switched off.
pub fn requests(config: &ContainerConfig, annotations: bool) -> Result<Vec<Request>, Error> {
    let fields = config.cdi_devices.iter().enumerate();
    let mut all: Vec<Request> = fields
        .map(|(index, device)| Request {
            name: device.name.clone(),
            field: format!("config.CDI_devices[{index}].name"),
        })
        .collect();
    let mut keys: Vec<&String> = config.annotations.keys().filter(|key| key.starts_with(ANNOTATION)).collect();
    // In one order, so that one request always makes one spec.
    keys.sort();
    for key in keys {
        let field = format!("config.annotations[{key}]");
        if !annotations {
            // A container without its devices would start and fail in ways that nobody can read.
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
    let parts = name.split_once('=').ok_or_else(|| format!("{name:?} is no vendor/class=device"))?;
    check_kind(parts.0)?;
    check_device(parts.1)
}

/// `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or_else(|| format!("{kind:?} is no vendor/class"))?;
    let begins = |first: char| first.is_ascii_alphabetic();
    let good = fits(vendor, "_-.", begins) && fits(class, "_-.", begins);
    if good { Ok(()) } else { Err(format!("{kind:?} is no vendor/class")) }
}

/// The name of a device.
pub(super) fn check_device(name: &str) -> Result<(), String> {
    let good = fits(name, "_-.:", |first| first.is_ascii_alphanumeric());
    if good { Ok(()) } else { Err(format!("{name:?} is no name of a device")) }
}

/// Letters, digits and, but for the ends, some more.
fn fits(text: &str, more: &str, begins: impl Fn(char) -> bool) -> bool {
    text.starts_with(begins)
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || more.contains(one))
}
