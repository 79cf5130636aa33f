//! The systemd cgroup driver (docs/adr/0010): runc derives systemd's properties from the spec. So the specs must be the
//! same with both drivers, except for the path, which names the slice and the scope.

use serde_json::Value;

use super::{directory, features, make, parse};

const CGROUPFS: &str = "/kubepods/burstable/podu1";
/// In the form that kubelet sends.
const SYSTEMD: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu1.slice";

/// A feature's spec with another cgroup parent, and the cgroup path in the spec.
fn below(feature: &str, parent: &str) -> (Value, String) {
    let text = std::fs::read(directory().join(format!("{feature}.config.json"))).unwrap();
    let mut document = parse(serde_json::from_slice(&text).unwrap());
    document.sandbox.linux.get_or_insert_default().cgroup_parent = parent.to_owned();
    let mut spec = make(&document).unwrap_or_else(|error| panic!("{feature}: {error}"));
    let path = spec.pointer_mut("/linux/cgroupsPath").unwrap_or_else(|| panic!("{feature} has no path")).take();
    (spec, path.as_str().unwrap().to_owned())
}

#[test]
fn drivers_differ_in_the_path_alone() {
    for feature in features() {
        let ((one, path), (other, scope)) = (below(&feature, CGROUPFS), below(&feature, SYSTEMD));
        assert_eq!(one, other, "{feature}: limits, devices and the rest");
        let id = path.strip_prefix(&format!("{CGROUPFS}/")).unwrap_or_else(|| panic!("{feature}: {path}"));
        assert_eq!(scope, format!("kubepods-burstable-podu1.slice:cri-containerd:{id}"), "{feature}");
    }
}

/// Users of crictl write only the slice's name.
#[test]
fn a_slice_is_the_same_by_its_name_and_by_its_path() {
    let feature = "container-cgroup-systemd";
    let named = below(feature, "kubepods-burstable-podu1.slice");
    assert_eq!(named, below(feature, SYSTEMD));
    assert_eq!(named, below(feature, &format!("{SYSTEMD}/")));
}

/// runc needs exactly the three parts `slice:prefix:name`.
#[test]
fn a_systemd_path_has_three_parts() {
    for feature in features() {
        assert_eq!(below(&feature, SYSTEMD).1.split(':').count(), 3, "{feature}");
    }
}
