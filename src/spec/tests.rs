use std::path::Path;

use super::*;
use crate::api::v1::{
    ContainerConfig, ContainerMetadata, LinuxContainerConfig, LinuxContainerResources, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, PodSandboxConfig,
};
use crate::ids::{ContainerId, SandboxId};

fn host() -> Host {
    Host {
        oom_score_floor: -1000,
        capabilities: u64::MAX,
        seccomp: true,
        kernel: (6, 1),
        cpu_count: 2,
        ..Host::default()
    }
}

fn files() -> SandboxFiles {
    let file = |name: &str| Path::new("/run/pontoon/s").join(name);
    SandboxFiles {
        hostname: file("hostname"),
        hosts: file("hosts"),
        resolv_conf: file("resolv.conf"),
        shm: file("shm"),
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["cmd".to_owned()],
        env: vec!["A=image".to_owned(), "B=image".to_owned()],
        working_dir: "/work".to_owned(),
        ..ImageConfig::default()
    }
}

fn config(context: LinuxContainerSecurityContext) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        linux: Some(LinuxContainerConfig { security_context: Some(context), ..LinuxContainerConfig::default() }),
        ..ContainerConfig::default()
    }
}

fn make(config: &ContainerConfig, sandbox: &PodSandboxConfig, host: &Host) -> Result<Spec, Error> {
    container(&ContainerInput {
        id: &ContainerId::parse(&"c".repeat(64)).unwrap(),
        sandbox_id: &SandboxId::parse(&"d".repeat(64)).unwrap(),
        config,
        sandbox,
        hostname: "pod",
        sandbox_pid: 42,
        netns: Some(Path::new("/var/run/netns/x")),
        mapping: None,
        target_pid: None,
        image: &image(),
        image_name: "example",
        user: &User { uid: 0, gid: 0, groups: vec![0] },
        files: &files(),
        mounts: &[],
        devices: &[],
        cdi: &crate::cdi::ContainerEdits::default(),
        volumes: &[],
        seccomp: None,
        selinux: None,
        host,
        handler: &Handler::default(),
        cgroup_path: "/pods/c".to_owned(),
    })
}

fn plain(config: &ContainerConfig) -> Result<Spec, Error> {
    make(config, &PodSandboxConfig::default(), &host())
}

fn env_of(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().env().clone().unwrap()
}

fn args_of(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().args().clone().unwrap()
}

#[test]
fn a_command_replaces_the_images_cmd_too() {
    let mut config = ContainerConfig::default();
    assert_eq!(args_of(&plain(&config).unwrap()), ["/entry", "cmd"]);
    config.args = vec!["arg".to_owned()];
    assert_eq!(args_of(&plain(&config).unwrap()), ["/entry", "arg"]);
    config.command = vec!["run".to_owned()];
    assert_eq!(args_of(&plain(&config).unwrap()), ["run", "arg"]);
    config.args.clear();
    assert_eq!(args_of(&plain(&config).unwrap()), ["run"]);
}

#[test]
fn the_requests_environment_wins_in_the_images_place() {
    let envs = [("B", "request"), ("C", "x"), ("C", "y")]
        .map(|(key, value)| crate::api::v1::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() });
    let config = ContainerConfig { envs: envs.to_vec(), ..ContainerConfig::default() };
    let env = env_of(&plain(&config).unwrap());
    assert_eq!(env[1..], ["HOSTNAME=pod", "A=image", "B=request", "C=y"]);
}

#[test]
fn a_value_that_is_not_utf_8_is_refused_and_not_mangled() {
    let entry = crate::api::v1::KeyValue { key: "K".to_owned(), value: vec![0xff] };
    let config = ContainerConfig { envs: vec![entry], ..ContainerConfig::default() };
    assert!(plain(&config).unwrap_err().to_string().starts_with("config.envs[0].value"));
}

#[test]
fn no_directory_leads_through_open_files() {
    for path in ["/proc/self/fd/7", "/proc/1/fd", "/proc/self/../self/fd/3", "/proc/self/fd/20/../..", "relative"] {
        let config = ContainerConfig { working_dir: path.to_owned(), ..ContainerConfig::default() };
        assert!(plain(&config).is_err(), "{path}");
    }
}

#[test]
fn privileged_needs_a_privileged_sandbox() {
    let context = LinuxContainerSecurityContext { privileged: true, ..LinuxContainerSecurityContext::default() };
    let config = config(context);
    assert!(plain(&config).is_err());
    let context = LinuxSandboxSecurityContext { privileged: true, ..LinuxSandboxSecurityContext::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(context), ..LinuxPodSandboxConfig::default() };
    let sandbox = PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() };
    let spec = make(&config, &sandbox, &host()).unwrap();
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 41);
    assert!(capabilities.inheritable().is_none());
    assert!(spec.linux().as_ref().unwrap().masked_paths().as_ref().unwrap().is_empty());
}

#[test]
fn oom_scores_are_raised_to_what_may_be_set() {
    let resources = LinuxContainerResources { oom_score_adj: -999, ..LinuxContainerResources::default() };
    let linux = LinuxContainerConfig { resources: Some(resources), ..LinuxContainerConfig::default() };
    let config = ContainerConfig { linux: Some(linux), ..ContainerConfig::default() };
    let score = |host: &Host| {
        let spec = make(&config, &PodSandboxConfig::default(), host).unwrap();
        spec.process().as_ref().unwrap().oom_score_adj()
    };
    assert_eq!(score(&host()), Some(-999));
    assert_eq!(score(&Host { oom_score_floor: 0, ..host() }), Some(0));
}

#[test]
fn paths_are_the_requests_to_the_letter_when_it_has_a_security_context() {
    let masked =
        |config: &ContainerConfig| plain(config).unwrap().linux().as_ref().unwrap().masked_paths().clone().unwrap();
    assert!(masked(&ContainerConfig::default()).contains(&"/proc/kcore".to_owned()));
    assert!(masked(&config(LinuxContainerSecurityContext::default())).is_empty());
    let context = LinuxContainerSecurityContext { masked_paths: vec!["/x".to_owned()], ..Default::default() };
    assert_eq!(masked(&config(context)), ["/x"]);
}

#[test]
fn an_update_leaves_alone_what_it_does_not_name() {
    let resources = LinuxContainerResources {
        cpu_shares: 100,
        memory_limit_in_bytes: 1 << 20,
        ..LinuxContainerResources::default()
    };
    let linux = LinuxContainerConfig { resources: Some(resources), ..LinuxContainerConfig::default() };
    let mut spec = plain(&ContainerConfig { linux: Some(linux), ..ContainerConfig::default() }).unwrap();
    let update = LinuxContainerResources { memory_limit_in_bytes: 2 << 20, ..LinuxContainerResources::default() };
    update_resources(&mut spec, &update, &host()).unwrap();
    let now = reported_resources(&spec).linux.unwrap();
    assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (100, 2 << 20));
}

#[test]
fn no_sysctl_reaches_the_host() {
    let try_it = |key: &str, value: &str, network: NamespaceMode| {
        let options = NamespaceOption { network: network.into(), ..NamespaceOption::default() };
        let linux = LinuxPodSandboxConfig {
            sysctls: [(key.to_owned(), value.to_owned())].into(),
            ..LinuxPodSandboxConfig::default()
        };
        sysctls::sandbox(&PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() }, &options)
    };
    assert!(try_it("net.ipv4.ip_forward", "1", NamespaceMode::Pod).is_ok());
    assert!(try_it("net/ipv4/ip_forward", "1", NamespaceMode::Pod).is_ok());
    assert!(try_it("net.ipv4.ip_forward", "1", NamespaceMode::Node).is_err());
    assert!(try_it("kernel.core_pattern", "|/x", NamespaceMode::Pod).is_err());
    assert!(try_it("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x", NamespaceMode::Pod).is_err());
    assert!(try_it("kernel.shm_rmid_forced", "1\nx", NamespaceMode::Pod).is_err());
    assert!(try_it("../x", "1", NamespaceMode::Pod).is_err());
}

/// The options of a pod with a user namespace of its own.
fn own_user_namespace() -> NamespaceOption {
    use crate::api::v1::{IdMapping, UserNamespace};
    let ids = vec![IdMapping { host_id: 1000, container_id: 0, length: 10 }];
    let options = UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids };
    NamespaceOption { userns_options: Some(options), ..NamespaceOption::default() }
}

#[test]
fn r12_limits_of_users_are_set_in_the_pods_own_user_namespace_only() {
    let try_it = |options: &NamespaceOption| {
        let linux = LinuxPodSandboxConfig {
            sysctls: [("user.max_user_namespaces".to_owned(), "7".to_owned())].into(),
            ..LinuxPodSandboxConfig::default()
        };
        sysctls::sandbox(&PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() }, options)
    };
    assert_eq!(try_it(&own_user_namespace()).unwrap()["user.max_user_namespaces"], "7");
    let error = try_it(&NamespaceOption::default()).unwrap_err().to_string();
    assert!(error.ends_with("would change the host: the pod uses the host's user namespace"), "{error}");
}

#[test]
fn a_container_is_in_no_other_user_namespace_than_its_pod() {
    let options = own_user_namespace();
    let context = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
    let error = plain(&config(context)).unwrap_err().to_string();
    assert!(error.ends_with("userns_options: differs from that of the sandbox"), "{error}");
    // A container without options must not get the node's ids either.
    let one = crate::userns::Range { host: 1000, length: 10 };
    let pods = Some(crate::userns::Mapping { uids: one, gids: one });
    assert!(userns::check_same(None, pods).is_err());
    assert!(userns::check_same(pods, pods).is_ok());
}

#[test]
fn a_command_inherits_what_is_ambient_and_nothing_else() {
    let exec = |add_ambient_capabilities: Vec<String>| {
        let capabilities = crate::api::v1::Capability { add_ambient_capabilities, ..Default::default() };
        let context = LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() };
        let mut spec = plain(&config(context)).unwrap();
        // As an older version of Pontoon, or a handler's spec, may have left it.
        let mut sets = process_of(&mut spec).capabilities().clone().unwrap();
        sets.set_inheritable(sets.bounding().clone());
        process_of(&mut spec).set_capabilities(Some(sets));
        exec_process(process_of(&mut spec).clone(), &["x".to_owned()], true)
    };
    let sets = exec(vec!["KILL".to_owned()]).capabilities().clone().unwrap();
    assert_eq!(sets.inheritable(), &Some([oci_spec::runtime::Capability::Kill].into()));
    let process = exec(Vec::new());
    assert!(process.capabilities().as_ref().unwrap().inheritable().is_none());
    assert!(process.env().as_ref().unwrap().contains(&"TERM=xterm".to_owned()));
}

/// No limit follows from an annotation, whether a tenant wrote it on the pod or kubelet on the container.
#[test]
fn cve_2023_6476_no_annotation_changes_resources() {
    let limits = LinuxContainerResources { memory_limit_in_bytes: 1 << 20, cpu_quota: 1000, ..Default::default() };
    let linux = LinuxContainerConfig { resources: Some(limits), ..LinuxContainerConfig::default() };
    let mut config = ContainerConfig { linux: Some(linux), ..ContainerConfig::default() };
    let without = plain(&config).unwrap();
    let names = [
        "io.kubernetes.cri-o.UnifiedCgroup.c",
        "cpu-load-balancing.crio.io",
        "io.kubernetes.cri.sandbox-memory",
        "org.systemd.property.MemoryMax",
        "run.oci.systemd.force_cgroup_v1",
    ];
    config.annotations = names.map(|name| (name.to_owned(), "memory.max=max".to_owned())).into();
    let sandbox = PodSandboxConfig { annotations: config.annotations.clone(), ..PodSandboxConfig::default() };
    let with = make(&config, &sandbox, &host()).unwrap();
    assert_eq!((with.linux(), with.annotations()), (without.linux(), without.annotations()));
}

#[test]
fn an_update_is_taken_back_to_what_there_was_or_to_the_kernels_own() {
    let resources = |update: LinuxContainerResources, spec: &Spec| {
        let mut spec = spec.clone();
        update_resources(&mut spec, &update, &host()).unwrap();
        spec
    };
    let limit = |bytes| LinuxContainerResources { memory_limit_in_bytes: bytes, ..LinuxContainerResources::default() };
    let old = resources(limit(64), &plain(&ContainerConfig::default()).unwrap());
    let update = LinuxContainerResources { cpu_quota: 70_000, cpu_period: 50_000, cpu_shares: 512, ..limit(96) };
    let before = resources_before(&old, &resources(update, &old));
    let cpu = before.cpu().clone().unwrap();
    assert_eq!(before.memory().unwrap().limit(), Some(64));
    assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(-1), Some(100_000), Some(1024)));
    assert_eq!(resources_before(&old, &old).cpu().clone().unwrap().quota(), None, "what nobody changed is not written");
}
