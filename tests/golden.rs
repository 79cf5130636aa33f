//! Golden files: pairs of a CRI config and the OCI spec that is created from it, one pair for each feature.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes the specs again; the commit's diff then shows what changed. A
//! document has only the fields that its feature needs; the others are those of [`Document::default`].

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pontoon::api::v1::{ContainerConfig, Mount, PodSandboxConfig};
use pontoon::cdi::ContainerEdits;
use pontoon::cgroup::cgroups_path;
use pontoon::container::devices::HostDevice;
use pontoon::container::mounts::HostMount;
use pontoon::ids::{ContainerId, SandboxId};
use pontoon::lsm::selinux::{Contexts, Labels};
use pontoon::spec::{self, ContainerInput, Handler, Host, ImageConfig, SandboxFiles, SandboxInput, UserDb};
use pontoon::userns::Mapping;
use serde::Deserialize;
use serde_json::Value;

#[path = "golden/cgroup_drivers.rs"]
mod cgroup_drivers;
#[path = "golden/errors.rs"]
mod errors;

const UPDATE: &str = "UPDATE_GOLDEN";

/// The inputs of a spec. Without a `container`, the spec is the pause container's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    /// The purpose of the pair, for readers only.
    about: String,
    sandbox: PodSandboxConfig,
    container: Option<ContainerConfig>,
    image: Image,
    host: Facts,
    handler: HandlerFacts,
    /// The image's /etc/passwd and /etc/group.
    passwd: String,
    group: String,
    /// The Localhost profile that the request names.
    seccomp: Option<Value>,
    /// The request's devices, as they exist on the host.
    devices: Vec<Device>,
    /// The edits of the request's CDI devices.
    cdi: ContainerEdits,
    target_pid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Image {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    volumes: Vec<String>,
}

impl Default for Image {
    fn default() -> Self {
        let cmd = vec!["/bin/sh".to_owned()];
        Self { entrypoint: vec![], cmd, env: vec![], working_dir: String::new(), user: String::new(), volumes: vec![] }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    cgroup_v2: bool,
    oom_score_floor: i32,
    capabilities: u64,
    swap: bool,
    hugetlb: bool,
    apparmor: bool,
    selinux: bool,
    seccomp: bool,
    cpu_count: usize,
    cgroup_flags: Vec<String>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            cgroup_v2: true,
            oom_score_floor: -1000,
            capabilities: u64::MAX,
            swap: true,
            hugetlb: true,
            apparmor: false,
            selinux: false,
            seccomp: true,
            cpu_count: 1,
            cgroup_flags: vec!["nsdelegate".to_owned(), "memory_recursiveprot".to_owned()],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HandlerFacts {
    base_spec: Option<oci_spec::runtime::Spec>,
    recursive_read_only: bool,
    id_mapped_mounts: bool,
    privileged_without_host_devices: bool,
    pod_annotations: Vec<String>,
    container_annotations: Vec<String>,
    virtual_machine: bool,
}

impl Default for HandlerFacts {
    fn default() -> Self {
        Self {
            base_spec: None,
            recursive_read_only: true,
            id_mapped_mounts: true,
            privileged_without_host_devices: false,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            virtual_machine: false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    path: PathBuf,
    kind: char,
    major: i64,
    minor: i64,
    access: String,
}

/// Parses a document, and panics if it has a field that CRI does not have: otherwise a typing error would test nothing.
fn parse(mut json: Value) -> Document {
    // In CRI, values of environment variables are bytes. Documents may have strings, which are easier to read.
    for entry in json.pointer_mut("/container/envs").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(text) = entry["value"].as_str() {
            entry["value"] = text.bytes().map(Value::from).collect();
        }
    }
    let document: Document = serde_json::from_value(json.clone()).expect("a document");
    let known = |part: &str, message: Value| {
        if let Some(wanted) = json.get(part) {
            assert_known(part, wanted, &message);
        }
    };
    known("sandbox", serde_json::to_value(&document.sandbox).unwrap());
    known("container", serde_json::to_value(&document.container).unwrap());
    document
}

fn assert_known(at: &str, wanted: &Value, message: &Value) {
    match (wanted, message) {
        (Value::Object(wanted), Value::Object(message)) => {
            for (key, value) in wanted {
                let at = format!("{at}.{key}");
                assert_known(&at, value, message.get(key).unwrap_or_else(|| panic!("{at} is no field")));
            }
        }
        (Value::Array(wanted), Value::Array(message)) => {
            wanted.iter().zip(message).for_each(|(wanted, message)| assert_known(at, wanted, message));
        }
        _ => assert_eq!(wanted, message, "{at}"),
    }
}

/// Creates the document's spec. An error is returned as its text.
fn make(document: &Document) -> Result<Value, String> {
    let host = host(&document.host);
    let handler = handler(&document.handler);
    let made = match &document.container {
        Some(config) => container(document, config, &host, &handler),
        None => sandbox(document, &host, &handler),
    };
    made.map(|spec| canonical(serde_json::to_value(spec).unwrap())).map_err(|error| error.to_string())
}

fn sandbox(document: &Document, host: &Host, handler: &Handler) -> Result<oci_spec::runtime::Spec, spec::Error> {
    let id = sandbox_id();
    spec::check_sandbox_enums(&document.sandbox)?;
    let context = document.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    spec::sandbox_seccomp_file(context)?;
    let profile = profile(document);
    spec::sandbox(&SandboxInput {
        id: &id,
        config: &document.sandbox,
        handler,
        host,
        cgroup_path: cgroups_path(cgroup_parent(document), id.as_str()),
        netns: netns(document),
        userns: mapping(document)?.map(|_| Path::new("/run/pontoon/sandbox/userns")),
        root: Path::new("/var/lib/pontoon/pause/root"),
        args: vec!["/pause".to_owned()],
        hostname: document.sandbox.hostname.clone(),
        seccomp: profile.as_deref(),
        selinux: pod_labels(document, host)?.as_ref(),
        files: &files(),
    })
}

/// The pod's labels. If the request has no level, it is a fixed one in place of a random one.
fn pod_labels(document: &Document, host: &Host) -> Result<Option<Labels>, spec::Error> {
    let chosen = spec::selinux_level(&document.sandbox).is_none().then(|| "s0:c100,c200".to_owned());
    let contexts = host.selinux.as_ref();
    contexts.map(|contexts| spec::pod_labels(&document.sandbox, contexts, chosen)).transpose()
}

fn container(
    document: &Document,
    config: &ContainerConfig,
    host: &Host,
    handler: &Handler,
) -> Result<oci_spec::runtime::Spec, spec::Error> {
    spec::check_container_enums(config)?;
    spec::check_mounts(&config.mounts, handler)?;
    let (id, sandbox_id) = (ContainerId::parse(&"c".repeat(64)).unwrap(), sandbox_id());
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let image = image(&document.image);
    let db = UserDb::new(document.passwd.as_bytes(), document.group.as_bytes());
    let user = spec::user(db, &image.user, context)?;
    spec::seccomp_file(context)?;
    let profile = profile(document);
    let labels = pod_labels(document, host)?.map(|pod| spec::container_labels(context, &pod)).transpose()?;
    let volumes = image.volumes.iter().enumerate();
    let volumes: Vec<_> =
        volumes.map(|(n, path)| (path.clone(), PathBuf::from(format!("/var/lib/pontoon/volumes/{n}")))).collect();
    spec::container(&ContainerInput {
        id: &id,
        sandbox_id: &sandbox_id,
        config,
        sandbox: &document.sandbox,
        hostname: Some(document.sandbox.hostname.as_str()).filter(|name| !name.is_empty()).unwrap_or("node"),
        sandbox_pid: 42,
        netns: netns(document),
        mapping: mapping(document)?,
        target_pid: document.target_pid,
        image: &image,
        image_name: "example.org/image:tag",
        seccomp: profile.as_deref(),
        selinux: labels.as_ref(),
        user: &user,
        files: &files(),
        mounts: &mounts(config),
        devices: &devices(document),
        cdi: &document.cdi,
        volumes: &volumes,
        host,
        handler,
        cgroup_path: cgroups_path(cgroup_parent(document), id.as_str()),
    })
}

fn sandbox_id() -> SandboxId {
    SandboxId::parse(&"d".repeat(64)).unwrap()
}

fn cgroup_parent(document: &Document) -> &str {
    document.sandbox.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str())
}

fn netns(document: &Document) -> Option<&'static Path> {
    const NODE: i32 = 2;
    let context = document.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    let on_host = options.is_some_and(|options| options.network == NODE);
    (!on_host).then_some(Path::new("/var/run/netns/pontoon-golden"))
}

fn mapping(document: &Document) -> Result<Option<Mapping>, spec::Error> {
    let context = document.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    options.map_or(Ok(None), spec::user_namespace)
}

fn profile(document: &Document) -> Option<Vec<u8>> {
    document.seccomp.as_ref().map(|profile| serde_json::to_vec(profile).unwrap())
}

fn files() -> SandboxFiles {
    let file = |name: &str| Path::new("/run/pontoon/sandbox").join(name);
    SandboxFiles {
        hostname: file("hostname"),
        hosts: file("hosts"),
        resolv_conf: file("resolv.conf"),
        shm: file("shm"),
    }
}

fn image(image: &Image) -> ImageConfig {
    ImageConfig {
        entrypoint: image.entrypoint.clone(),
        cmd: image.cmd.clone(),
        env: image.env.clone(),
        working_dir: image.working_dir.clone(),
        user: image.user.clone(),
        volumes: image.volumes.clone(),
    }
}

fn host(facts: &Facts) -> Host {
    Host {
        cgroup_v2: facts.cgroup_v2,
        oom_score_floor: facts.oom_score_floor,
        capabilities: facts.capabilities,
        swap: facts.swap,
        hugetlb: facts.hugetlb,
        apparmor: facts.apparmor,
        selinux: facts.selinux.then(contexts),
        seccomp: facts.seccomp,
        kernel: (6, 1),
        cpu_count: facts.cpu_count,
        cgroup_flags: facts.cgroup_flags.clone(),
    }
}

/// The contexts of container-selinux's policy.
fn contexts() -> Contexts {
    Contexts { vm_process: "system_u:system_r:container_kvm_t:s0".parse().unwrap(), ..Contexts::default() }
}

fn handler(facts: &HandlerFacts) -> Handler {
    Handler {
        name: "runc".to_owned(),
        base_spec: facts.base_spec.clone(),
        recursive_read_only: facts.recursive_read_only,
        id_mapped_mounts: facts.id_mapped_mounts,
        privileged_without_host_devices: facts.privileged_without_host_devices,
        pod_annotations: facts.pod_annotations.clone(),
        container_annotations: facts.container_annotations.clone(),
        virtual_machine: facts.virtual_machine,
    }
}

/// The mounts as if all host paths exist and are not symlinks, and all images are mounted.
fn mounts(config: &ContainerConfig) -> Vec<HostMount> {
    let source = |index: usize, mount: &Mount| match mount.image {
        Some(_) => format!("/run/pontoon/image-volumes/c/{index}").into(),
        None => mount.host_path.clone().into(),
    };
    let mounts = config.mounts.iter().enumerate();
    mounts.map(|(index, mount)| HostMount { source: source(index, mount), mount: mount.clone() }).collect()
}

fn devices(document: &Document) -> Vec<HostDevice> {
    let one = |device: &Device| HostDevice {
        path: device.path.clone(),
        kind: device.kind,
        major: device.major,
        minor: device.minor,
        mode: 0o660,
        uid: 0,
        gid: 44,
        access: device.access.clone(),
    };
    document.devices.iter().map(one).collect()
}

/// Sorts the arrays that are sets; serde_json sorts the keys of objects.
fn canonical(mut spec: Value) -> Value {
    if let Some(sets) = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by_key(ToString::to_string);
        }
    }
    spec
}

fn features() -> BTreeSet<String> {
    let names = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".config.json").map(str::to_owned)).collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The lines that differ, each with its number, by a longest common subsequence.
fn difference(golden: &str, made: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (golden.lines().collect(), made.lines().collect());
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for (i, from) in old.iter().enumerate().rev() {
        for (j, to) in new.iter().enumerate().rev() {
            common[i][j] = if from == to { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            text += &format!("  {:4} -{}\n", i + 1, old[i]);
            i += 1;
        } else {
            text += &format!("  {:4} +{}\n", j + 1, new[j]);
            j += 1;
        }
    }
    text
}

fn made(feature: &str) -> Value {
    let config = fs::read(directory().join(format!("{feature}.config.json"))).unwrap();
    let config = serde_json::from_slice(&config).unwrap_or_else(|error| panic!("{feature}: {error}"));
    make(&parse(config)).unwrap_or_else(|error| panic!("{feature}: {error}"))
}

#[test]
fn specs_are_the_golden_ones() {
    let update = std::env::var_os(UPDATE).is_some();
    let mut problems = String::new();
    for feature in features() {
        let made = serde_json::to_string_pretty(&made(&feature)).unwrap() + "\n";
        let golden = directory().join(format!("{feature}.spec.json"));
        if update {
            fs::write(&golden, made).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if expected != made {
            problems += &format!("{feature}:\n{}", difference(&expected, &made));
        }
    }
    assert!(problems.is_empty(), "specs differ; {UPDATE}=1 takes them as they are now\n{problems}");
}

#[test]
fn no_spec_is_without_its_config() {
    let names = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let specs: BTreeSet<_> = names.filter_map(|name| name.strip_suffix(".spec.json").map(str::to_owned)).collect();
    let orphans: Vec<_> = specs.difference(&features()).cloned().collect();
    assert!(orphans.is_empty(), "{orphans:?}");
}

/// CVE-2022-24769: capabilities that are inheritable but not ambient go to each binary with inheritable file
/// capabilities.
#[test]
fn no_capability_is_inheritable_that_is_not_ambient() {
    for feature in features() {
        let spec = made(&feature);
        let sets = &spec["process"]["capabilities"];
        assert_eq!(sets.get("inheritable"), sets.get("ambient"), "{feature}");
    }
}
