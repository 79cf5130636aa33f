use super::*;

/// The error for a handler `x` with this table.
fn refused(table: &str) -> String {
    let runtime: Runtime = toml::from_str(table).unwrap();
    handler("x", &runtime).map(|handler| handler.name).unwrap_err().to_string()
}

#[test]
fn a_glob_that_can_match_no_annotation_is_refused() {
    for (glob, told) in
        [("[bad", "'['"), ("a?", "'?'"), ("{a,b}", "'{'"), ("a b", "' '"), ("", "matches no annotation")]
    {
        for key in ["pod_annotations", "container_annotations"] {
            let error = refused(&format!("{key} = [\"a.b/*\", {glob:?}]"));
            assert!(error.starts_with(&format!("config key runtimes.x.{key}: ")) && error.contains(told), "{error}");
        }
    }
    let good: Runtime = toml::from_str("pod_annotations = [\"*\", \"io.kata-containers_x/*.a\"]").unwrap();
    assert!(handler("x", &good).is_ok());
}

#[test]
fn a_type_names_a_shim() {
    for kind in ["", "runc", "io.containerd.", "bin/containerd-shim.v2", "a b.v2"] {
        let error = refused(&format!("type = {kind:?}"));
        assert!(
            error.starts_with("config key runtimes.x.type: ") && error.contains("io.containerd.runc.v2"),
            "{error}"
        );
    }
    for kind in ["io.containerd.kata.v2", "/usr/local/bin/containerd-shim-kata-v2"] {
        assert!(is_runtime_type(kind), "{kind}");
    }
}

#[test]
fn what_is_wrong_in_a_handler_has_its_full_name() {
    for (table, key) in [
        ("base_runtime_spec = \"base.json\"", "base_runtime_spec"),
        ("base_runtime_spec = \"/nonexistent/base.json\"", "base_runtime_spec"),
        ("cni_conf_dir = \"kata.d\"", "cni_conf_dir"),
        ("snapshotter = \"\"", "snapshotter"),
        ("options.SystemdCgroup = \"true\"", "options.SystemdCgroup"),
        ("options.BinaryName = \"bin/runc\"", "options.BinaryName"),
        ("options.Root = \"runc\"", "options.Root"),
        ("type = \"io.containerd.kata.v2\"\noptions.ConfigPath = \"kata.toml\"", "options.ConfigPath"),
    ] {
        let error = refused(table);
        assert!(error.starts_with(&format!("config key runtimes.x.{key}: ")), "{table}: {error}");
    }
    let nameless = BTreeMap::from([(String::new(), Runtime::default())]);
    assert!(Handlers::resolve("", &nameless).unwrap_err().to_string().starts_with("config key runtimes: "));
}

#[test]
fn a_base_spec_that_is_none_names_its_key_and_file() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("base.json");
    std::fs::write(&file, "[]").unwrap();
    let error = refused(&format!("base_runtime_spec = {file:?}"));
    let start = format!("config key runtimes.x.base_runtime_spec: {}: not an OCI spec: ", file.display());
    assert!(error.starts_with(&start), "{error}");
}
