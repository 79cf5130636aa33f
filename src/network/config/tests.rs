use super::*;

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}"#;

fn list(extra: &str) -> Result<NetworkConfig, String> {
    NetworkConfig::from_list(format!(r#"{{"name":"n","plugins":[{{"type":"bridge"}}],{extra}}}"#).as_bytes())
}

#[test]
fn the_first_file_by_name_is_taken_whatever_its_extension() {
    let dir = dir(&[
        ("20-b.conflist", LIST),
        ("10-a.conf", r#"{"name":"single","type":"bridge","mtu":9000}"#),
        ("05-readme.txt", "no config"),
        ("00-dir.conflist/x", ""),
    ]);
    let found = load(dir.path(), 1).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].cni_version.as_str()), ("single", "0.1.0"));
    assert_eq!(found[0].plugins[0].raw["mtu"], 9000);
    let again = NetworkConfig::from_list(&found[0].bytes).unwrap();
    assert_eq!(again.plugins[0].raw, found[0].plugins[0].raw, "the cache's bytes are a list");
    assert_eq!(load(dir.path(), 0).unwrap().len(), 2);
    assert!(load(&dir.path().join("absent"), 1).unwrap().is_empty());
}

#[test]
fn an_invalid_first_file_is_named_and_not_passed_over() {
    let dir = dir(&[("10-broken.conflist", "{\"name\": "), ("20-good.conflist", LIST)]);
    let error = load(dir.path(), 1).unwrap_err();
    assert!(error.file.ends_with("10-broken.conflist"));
    assert_eq!(error.reason, "it is not JSON at line 1 column 9");
}

#[test]
fn what_is_no_config_says_why() {
    for (text, reason) in [
        (r#"{"plugins":[{"type":"a"}]}"#, "it has no \"name\""),
        (r#"{"name":"../x","plugins":[{"type":"a"}]}"#, "other characters"),
        (r#"{"name":"n","plugins":[]}"#, "its list of plugins is empty"),
        (r#"{"name":"n"}"#, "it has no plugins"),
        (r#"{"name":"n","plugins":{}}"#, "\"plugins\" is not a list"),
        (r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, "plugin 1: it has no \"type\""),
        (r#"{"name":"n","plugins":[{"type":"../a"}]}"#, "is not a file name"),
        (r#"{"name":"n","plugins":[{"type":"a","capabilities":{"x":1}}]}"#, "not all true or false"),
        (r#"{"name":"n","cniVersion":"2.0.0","plugins":[{"type":"a"}]}"#, "newer than 1.1.0"),
        (r#"{"name":"n","cniVersion":"new","plugins":[{"type":"a"}]}"#, "is not a version"),
        (r#"{"name":"n","disableCheck":3,"plugins":[{"type":"a"}]}"#, "neither true nor false"),
        ("[]", "is not a JSON object"),
    ] {
        let dir = dir(&[("10-x.conflist", text)]);
        let error = load(dir.path(), 1).unwrap_err();
        assert!(error.reason.contains(reason), "{text}: {error}");
    }
    let dir = dir(&[("10-x.conf", LIST)]);
    assert!(load(dir.path(), 1).unwrap_err().reason.contains("belongs in a .conflist file"));
    fs::write(dir.path().join("00-large.conf"), vec![b' '; usize::try_from(LARGEST_FILE).unwrap() + 1]).unwrap();
    assert!(load(dir.path(), 1).unwrap_err().reason.contains("larger than"));
}

#[test]
fn the_newest_common_version_is_chosen() {
    let chosen = |extra: &str| list(extra).unwrap().cni_version;
    assert_eq!(chosen(r#""cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","2.0.0"]"#), "1.1.0");
    assert_eq!(chosen(r#""cniVersion":"9.0.0","cniVersions":["0.3.1","1.0.0"]"#), "1.0.0");
    assert_eq!(chosen(r#""cniVersion":"1.1""#), "1.1");
    assert_eq!(chosen(r#""cniVersion":"""#), "0.1.0");
}

#[test]
fn flags_may_be_texts() {
    let config = list(r#""disableCheck":"True","disableGC":"false""#).unwrap();
    assert!(config.disable_check && !config.disable_gc);
}

#[test]
fn plugins_in_files_of_their_own_join_the_chain_and_the_cached_bytes() {
    let files = [("10-a.conflist", LIST), ("a/20-x.conf", r#"{"type":"x"}"#), ("a/10-y.conf", r#"{"type":"y"}"#)];
    let found = load(dir(&files).path(), 1).unwrap();
    let kinds = |config: &NetworkConfig| config.plugins.iter().map(|p| p.kind.clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&found[0]), ["bridge", "y", "x"]);
    assert_eq!(kinds(&NetworkConfig::from_list(&found[0].bytes).unwrap()), ["bridge", "y", "x"]);
    let inlined = LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
    let files = [("10-a.conflist", inlined.as_str()), files[1]];
    assert_eq!(kinds(&load(dir(&files).path(), 1).unwrap()[0]), ["bridge"]);
}
