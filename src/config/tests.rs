use std::path::Path;

use super::*;
use crate::network::ConfigDir;

fn parse(text: &str) -> Result<Config, Error> {
    Config::resolve(File::parse(Path::new("x.toml"), text)?)
}

#[test]
fn an_unknown_key_is_an_error_that_names_its_line() {
    let error = parse("socket = \"/run/x.sock\"\n\n[log]\ncolour = true\n").unwrap_err().to_string();
    assert!(error.contains("line 4") && error.contains("colour"), "{error}");
}

/// The whole text is what `pontoon serve` prints last.
#[test]
fn an_error_of_the_file_is_one_line_and_is_printed_once() {
    for text in ["[log]\ncolour = true\n", "[streaming]\nport = 70000\n", "[log]\nlevel = info\n"] {
        let error = anyhow::Error::from(parse(text).unwrap_err()).context("start");
        let told = format!("{error:#}");
        assert!(told.starts_with("start: config x.toml, line 2: ") && !told.contains('\n'), "{told}");
        assert_eq!(told.matches("line 2").count(), 1, "{told}");
    }
}

#[test]
fn an_unknown_runtime_option_names_its_handler() {
    let error = parse("[runtimes.runc.options]\nSystemdCgroups = true\n").unwrap_err().to_string();
    assert!(error.contains("runtimes.runc.options") && error.contains("SystemdCgroups"), "{error}");
}

#[test]
fn the_default_handler_has_to_exist() {
    let error = parse("default_runtime = \"kata\"\n").unwrap_err().to_string();
    assert!(error.contains("default_runtime"), "{error}");
}

#[test]
fn handlers_cannot_differ_in_their_cgroup_driver() {
    let text = "[runtimes.runc.options]\nSystemdCgroup = true\n[runtimes.other]\n";
    let error = parse(text).unwrap_err().to_string();
    assert!(error.contains("runtimes.other.options.SystemdCgroup"), "{error}");
}

#[test]
fn a_handlers_cni_directory_is_used_with_one_config_unless_it_says_more() {
    let cni = |text: &str| parse(&format!("[runtimes.runc]\n{text}")).unwrap().handlers.get("").unwrap().cni.clone();
    assert_eq!(cni(""), None);
    let dir = |limit| Some(ConfigDir { path: "/etc/cni/kata.d".into(), limit });
    assert_eq!(cni("cni_conf_dir = \"/etc/cni/kata.d\""), dir(1));
    assert_eq!(cni("cni_conf_dir = \"/etc/cni/kata.d\"\ncni_max_conf_num = 0"), dir(0));
    let error = parse("[runtimes.runc]\ncni_max_conf_num = 2\n").unwrap_err().to_string();
    assert!(error.contains("runtimes.runc.cni_max_conf_num") && error.contains("cni_conf_dir"), "{error}");
}

#[test]
fn an_empty_file_is_a_configuration() {
    let config = parse("").unwrap();
    assert_eq!(config.handlers.get("").unwrap().name, "runc");
    assert_eq!(config.handlers.get("runc").unwrap().kind, "io.containerd.runc.v2");
    assert!(config.handlers.get("kata").is_none());
}

#[test]
fn commands_read_the_units_file_if_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let (units, other) = (directory.path().join("config.toml"), PathBuf::from("/other.toml"));
    let (none, named) = (TopFlags::default(), TopFlags { config: Some(other.clone()), ..TopFlags::default() });
    assert_eq!(none.config_file(&units), None, "there is none");
    std::fs::write(&units, "socket = \"/z.sock\"\n").unwrap();
    assert_eq!(none.config_file(&units), Some(units.clone()));
    assert_eq!(named.config_file(&units), Some(other));
    let one = TopFlags { socket: Some("/y.sock".into()), ..TopFlags::default() };
    assert_eq!(one.config_file(&units), Some(units.clone()), "the other socket is in the file");
    let both = TopFlags { admin_socket: Some("/a.sock".into()), ..one };
    assert_eq!(both.config_file(&units), None, "no more is needed than these flags say");
}

#[test]
fn a_flag_wins_over_the_file() {
    let mut file = File::default();
    let flags = ServeFlags { socket: Some("/tmp/y.sock".into()), ..ServeFlags::default() };
    flags.override_file(&mut file);
    assert_eq!(Config::resolve(file).unwrap().socket, PathBuf::from("/tmp/y.sock"));
}

#[test]
fn selinux_levels_need_two_categories_that_policies_have() {
    for range in ["1", "1025"] {
        let error = parse(&format!("[selinux]\ncategory_range = {range}\n")).unwrap_err().to_string();
        assert!(error.contains("selinux.category_range"), "{error}");
    }
    assert!(parse("[selinux]\ncategory_range = 2\n").is_ok());
}

#[test]
fn profiles_are_in_directories_that_have_one_meaning() {
    let error = parse("seccomp_profile_roots = [\"/var/lib/kubelet/seccomp\", \"seccomp\"]\n").unwrap_err().to_string();
    assert!(error.contains("seccomp_profile_roots") && error.contains("absolute"), "{error}");
    assert_eq!(parse("").unwrap().seccomp_profile_roots, [PathBuf::from("/var/lib/kubelet/seccomp")]);
}

#[test]
fn a_limit_that_nothing_could_work_with_is_an_error() {
    for (key, value) in [
        ("execs", 0),
        ("exec_sync_reserve", 1025),
        ("execs_per_container", 0),
        ("streams", 0),
        ("exec_reply_budget", 16),
    ] {
        let error = parse(&format!("[limits]\n{key} = {value}\n")).unwrap_err().to_string();
        assert!(error.contains(&format!("limits.{key}")), "{error}");
    }
    assert!(parse("[limits]\nexecs = 1\nexec_sync_reserve = 0\nexec_reply_budget = 17\n").is_ok());
}

#[test]
fn a_namespace_is_a_name_that_containerd_accepts() {
    let namespace = |name: &str| parse(&format!("[containerd]\nnamespace = \"{name}\"\n"));
    for name in ["k8s.io", "a", "moby_2-x"] {
        assert_eq!(namespace(name).unwrap().containerd.namespace, name);
    }
    for name in ["", "..", "../x", "a/b", "-a", "a b", &"a".repeat(77)] {
        let error = namespace(name).unwrap_err().to_string();
        assert!(error.starts_with("config key containerd.namespace: "), "{error}");
    }
}

#[test]
fn metrics_are_for_this_node_alone() {
    assert_eq!(parse("").unwrap().metrics, None);
    for address in ["127.0.0.1:9560", "[::1]:9560", "unix:///run/x.sock"] {
        assert!(parse(&format!("[metrics]\naddress = \"{address}\"\n")).unwrap().metrics.is_some(), "{address}");
    }
    for address in ["0.0.0.0:9560", "192.0.2.1:9560", "node:9560", "unix://x.sock"] {
        let error = parse(&format!("[metrics]\naddress = \"{address}\"\n")).unwrap_err().to_string();
        assert!(error.starts_with("config key metrics.address: "), "{error}");
    }
}

#[test]
fn the_socket_for_commands_is_in_the_state_directory() {
    assert_eq!(parse("state = \"/x\"").unwrap().admin_socket, PathBuf::from("/x/admin.sock"));
    assert_eq!(parse("admin_socket = \"/y.sock\"").unwrap().admin_socket, PathBuf::from("/y.sock"));
    assert!(parse("admin_socket = \"y.sock\"").unwrap_err().to_string().contains("admin_socket"));
}

#[test]
fn traces_want_a_build_that_has_them() {
    let text = "[traces]\nendpoint = \"http://127.0.0.1:4317\"\n";
    assert_eq!(parse(text).is_ok(), cfg!(feature = "otlp"));
    let error = parse("[traces]\nsampling_rate_per_million = 1000001\n").unwrap_err().to_string();
    assert!(error.contains("traces.sampling_rate_per_million"), "{error}");
}

#[test]
fn a_collectors_address_has_a_scheme_a_host_and_a_port() {
    for good in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://collector:4317"] {
        assert!(is_collector(good), "{good}");
    }
    for bad in [
        "127.0.0.1:4317",
        "https://127.0.0.1:4317",
        "http://127.0.0.1",
        "http://:4317",
        "http://a:0",
        "http://a/b:1",
        "grpc",
    ] {
        assert!(!is_collector(bad), "{bad}");
    }
}

/// Each value has the right type, and could never work. The error names the key.
#[test]
fn what_can_never_work_is_refused() {
    for (text, key) in [
        ("socket = \"\"", "socket"),
        ("socket = \"tcp://127.0.0.1:1\"", "socket"),
        ("root = \"\"", "root"),
        ("root = \"/\"", "root"),
        ("state = \"/run/\"", "state"),
        ("root = \"/a\"\nstate = \"/a\"", "state"),
        ("netns_dir = \"netns\"", "netns_dir"),
        ("runtime_name = \"\"", "runtime_name"),
        ("runtime_name = \"a://b\"", "runtime_name"),
        ("missing_host_path = \"\"", "missing_host_path"),
        ("seccomp_profile_roots = [\"\"]", "seccomp_profile_roots"),
        ("default_runtime = \"\"", "default_runtime"),
        ("[log]\nlevel = \"verbose\"", "log.level"),
        ("[containerd]\naddress = \"containerd.sock\"", "containerd.address"),
        ("[containerd]\nnamespace = \"\"", "containerd.namespace"),
        ("[containerd]\nnamespace = \"k8s..io\"", "containerd.namespace"),
        ("[cni]\nconf_dir = \"\"", "cni.conf_dir"),
        ("[cni]\nbin_dirs = []", "cni.bin_dirs"),
        ("[cni]\nbin_dirs = [\"bin\"]", "cni.bin_dirs"),
        ("[cni]\ncache_dir = \"cni\"", "cni.cache_dir"),
        ("[cni]\nconf_template = \"\"", "cni.conf_template"),
        ("[images]\nregistry_config_path = \"/a:certs.d\"", "images.registry_config_path"),
        ("[images]\nsnapshotter = \"\"", "images.snapshotter"),
        ("[images]\nthroughput_window = 86401", "images.throughput_window"),
        ("[cdi]\nspec_dirs = [\"cdi\"]", "cdi.spec_dirs"),
        ("[streaming]\ntls_cert_file = \"c\"\ntls_key_file = \"/k\"", "streaming.tls_cert_file"),
        ("[streaming]\nidle_timeout = \"\"", "streaming.idle_timeout"),
        ("[metrics]\naddress = \"127.0.0.1:0\"", "metrics.address"),
        ("[runtimes.runc]\ntype = \"runc\"", "runtimes.runc.type"),
        ("[runtimes.runc]\npod_annotations = [\"[bad\"]", "runtimes.runc.pod_annotations"),
        ("[runtimes.runc.options]\nBinaryName = \"bin/runc\"", "runtimes.runc.options.BinaryName"),
    ] {
        let error = parse(text).map(|config| config.socket).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config key {key}: ")), "{text}: {error}");
    }
}

#[test]
fn containerds_socket_may_have_the_scheme_that_kubelets_endpoint_has() {
    let config = parse("[containerd]\naddress = \"unix:///run/x.sock\"\nnamespace = \"a-b.c_1\"\n").unwrap();
    assert_eq!(config.containerd.address, PathBuf::from("/run/x.sock"));
    assert_eq!(config.containerd.namespace, "a-b.c_1");
    let mut file = File::default();
    let flags = ServeFlags { containerd: Some("unix:///run/y.sock".into()), ..ServeFlags::default() };
    flags.override_file(&mut file);
    assert_eq!(Config::resolve(file).unwrap().containerd.address, PathBuf::from("/run/y.sock"));
}

/// Uncomments the optional keys, so that the test covers every key of the example.
#[test]
fn the_example_shows_each_key_with_its_default() {
    let text = include_str!("../../examples/config.toml");
    let example: File = toml::from_str(text).unwrap();
    let default = File::default();
    assert_eq!(format!("{:?}", File { runtimes: default.runtimes.clone(), ..example.clone() }), format!("{default:?}"));
    let whole: String = text
        .lines()
        .map(|line| {
            format!(
                "{}\n",
                line.strip_prefix("# ")
                    .filter(|key| key.contains(" = \"/") || key.starts_with("snapshotter ="))
                    .unwrap_or(line)
            )
        })
        .collect();
    assert!(whole.contains("\nconf_template") && whole.contains("\nbase_runtime_spec"));
    toml::from_str::<File>(&whole).unwrap();
}
