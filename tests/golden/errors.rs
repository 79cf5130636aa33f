//! Invalid configs: the error's text names the field.

use pontoon::api::v1::{Device, Mount};
use pontoon::container::mounts::MissingHostPath;
use pontoon::container::{devices, mounts};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The text of the error for a document.
fn refusal(document: Value) -> String {
    super::make(&super::parse(document.clone())).expect_err(&document.to_string())
}

fn container(config: Value) -> String {
    refusal(json!({ "container": config }))
}

fn security(context: Value) -> String {
    container(json!({ "linux": { "security_context": context } }))
}

fn resources(resources: Value) -> String {
    container(json!({ "linux": { "resources": resources } }))
}

fn sandbox(linux: Value) -> String {
    refusal(json!({ "sandbox": { "linux": linux } }))
}

fn pod_security(context: Value) -> String {
    sandbox(json!({ "security_context": context }))
}

fn image_user(user: &str) -> String {
    let passwd = "web:x:33:4294967295::/:\n99999999999:x:0:0::/:\n";
    refusal(json!({ "container": {}, "image": { "cmd": ["/x"], "user": user }, "passwd": passwd }))
}

fn all_equal(table: &[(String, &str)]) {
    for (refusal, text) in table {
        assert_eq!(refusal, text);
    }
}

#[test]
fn of_the_process() {
    let cwd = |path: &str| container(json!({ "working_dir": path }));
    let env = |key: &str, value: Value| container(json!({ "envs": [{ "key": key, "value": value }] }));
    let no_command = refusal(json!({ "container": {}, "image": { "cmd": [] } }));
    let image_cwd = refusal(json!({ "container": {}, "image": { "cmd": ["/x"], "working_dir": "/proc/1/fd/3" } }));
    all_equal(&[
        (no_command, "config.command: is empty, and the image has neither an entrypoint nor a cmd"),
        (cwd("work"), "config.working_dir: work is not absolute"),
        (cwd("/proc/self/fd/7"), "config.working_dir: /proc/self/fd/7 leads through open files"),
        (cwd("/a/../proc/thread-self/fd"), "config.working_dir: /a/../proc/thread-self/fd leads through open files"),
        (image_cwd, "the image's working directory: /proc/1/fd/3 leads through open files"),
        (env("", json!("x")), "config.envs[0].key: is empty or has a = or a zero byte"),
        (env("A=B", json!("x")), "config.envs[0].key: is empty or has a = or a zero byte"),
        (env("A", json!("x\0y")), "config.envs[0].value: has a zero byte"),
        (env("A", json!([255])), "config.envs[0].value: of A is not UTF-8"),
    ]);
}

#[test]
fn of_the_user() {
    const CONTEXT: &str = "config.linux.security_context";
    let range = |field: &str, value: i64| format!("{CONTEXT}.{field}: {value} is not between 0 and 2147483647");
    for value in [2_147_483_648_i64, 4_294_967_296, -1] {
        assert_eq!(security(json!({ "run_as_user": { "value": value } })), range("run_as_user", value));
    }
    let group = json!({ "run_as_user": { "value": 1 }, "run_as_group": { "value": -1 } });
    assert_eq!(security(group), range("run_as_group", -1));
    assert_eq!(
        security(json!({ "supplemental_groups": [4_294_967_295_i64] })),
        range("supplemental_groups", 4_294_967_295)
    );
    let both = json!({ "run_as_user": { "value": 1 }, "run_as_username": "web" });
    let group = json!({ "run_as_group": { "value": 1 } });
    all_equal(&[
        (security(both), "config.linux.security_context.run_as_username: and run_as_user exclude each other"),
        (security(group), "config.linux.security_context.run_as_group: needs run_as_user or run_as_username"),
        (
            security(json!({ "run_as_username": "nobody" })),
            "config.linux.security_context.run_as_username: there is no user \"nobody\" in the image",
        ),
        (image_user("99999999999"), "the image's USER: 99999999999 is not between 0 and 2147483647"),
        (image_user("4294967296:0"), "the image's USER: 4294967296 is not between 0 and 2147483647"),
        (image_user("1:group"), "the image's USER: there is no group \"group\" in the image"),
        (image_user("33"), "the image's primary group: 4294967295 is not between 0 and 2147483647"),
    ]);
}

#[test]
fn of_the_security_context() {
    let old_host = |context: Value| {
        let config = json!({ "linux": { "security_context": context } });
        refusal(json!({ "container": config, "host": { "seccomp": false } }))
    };
    let apparmor = |kind: i32, name: &str, on: bool| {
        let context = json!({ "apparmor": { "profile_type": kind, "localhost_ref": name } });
        let config = json!({ "linux": { "security_context": context } });
        refusal(json!({ "container": config, "host": { "apparmor": on } }))
    };
    let localhost = |path: &str| security(json!({ "seccomp": { "profile_type": 2, "localhost_ref": path } }));
    let capabilities = |list: &str| security(json!({ "capabilities": { list: ["NET_EVERYTHING"] } }));
    all_equal(&[
        (
            security(json!({ "privileged": true })),
            "config.linux.security_context.privileged: the sandbox is not privileged",
        ),
        (
            capabilities("add_capabilities"),
            "config.linux.security_context.capabilities.add_capabilities: there is no capability \"NET_EVERYTHING\"",
        ),
        (
            capabilities("drop_capabilities"),
            "config.linux.security_context.capabilities.drop_capabilities: there is no capability \"NET_EVERYTHING\"",
        ),
        (
            capabilities("add_ambient_capabilities"),
            "config.linux.security_context.capabilities.add_ambient_capabilities: there is no capability \"NET_EVERYTHING\"",
        ),
        (
            localhost("../p.json"),
            "config.linux.security_context.seccomp.localhost_ref: \"../p.json\" is not a clean absolute path",
        ),
        (
            localhost("/a/../../p.json"),
            "config.linux.security_context.seccomp.localhost_ref: \"/a/../../p.json\" is not a clean absolute path",
        ),
        (
            old_host(json!({ "seccomp": { "profile_type": 0 } })),
            "config.linux.security_context.seccomp: this kernel has no seccomp filters",
        ),
        (apparmor(0, "", false), "config.linux.security_context.apparmor: this host has no AppArmor"),
        (apparmor(2, "p", false), "config.linux.security_context.apparmor: this host has no AppArmor"),
        (apparmor(0, "p", true), "config.linux.security_context.apparmor.localhost_ref: goes with Localhost only"),
        (apparmor(1, "p", true), "config.linux.security_context.apparmor.localhost_ref: goes with Localhost only"),
        (apparmor(2, "", true), "config.linux.security_context.apparmor.localhost_ref: is empty"),
    ]);
    for (kind, of) in [(0, security as fn(Value) -> String), (1, security), (0, pod_security), (1, pod_security)] {
        let text = "config.linux.security_context.seccomp.localhost_ref: goes with Localhost only";
        assert_eq!(of(json!({ "seccomp": { "profile_type": kind, "localhost_ref": "/p.json" } })), text);
    }
    // The files of these requests are empty.
    let deprecated = json!({ "seccomp_profile_path": "localhost//p.json" });
    for (broken, field) in [
        (localhost("/p.json"), "seccomp.localhost_ref"),
        (security(deprecated.clone()), "seccomp_profile_path"),
        (pod_security(deprecated), "seccomp_profile_path"),
    ] {
        let start = format!("config.linux.security_context.{field}: /p.json: is not a seccomp profile: ");
        assert!(broken.starts_with(&start), "{broken}");
    }
}

/// Invalid options are refused on nodes without SELinux too.
#[test]
fn of_selinux_options() {
    let both = |options: Value| {
        let context = json!({ "selinux_options": options });
        let linux = json!({ "security_context": context });
        let of_sandbox = sandbox(linux.clone());
        let on_selinux = refusal(json!({ "container": { "linux": linux }, "host": { "selinux": true } }));
        assert_eq!([&of_sandbox, &on_selinux], [&security(context.clone()); 2]);
        of_sandbox
    };
    let level = |level: &str| both(json!({ "level": level }));
    all_equal(&[
        (
            level("s0,c4,c5"),
            "config.linux.security_context.selinux_options.level: \"s0,c4,c5\" is not a level such as s0:c1,c2",
        ),
        (
            level("s0:c1\nx"),
            "config.linux.security_context.selinux_options.level: \"s0:c1\\nx\" is not a level such as s0:c1,c2",
        ),
        (
            both(json!({ "type": "spc_t:s0" })),
            "config.linux.security_context.selinux_options.type: \"spc_t:s0\" has characters that no name has",
        ),
        (
            both(json!({ "user": "a b" })),
            "config.linux.security_context.selinux_options.user: \"a b\" has characters that no name has",
        ),
        (
            both(json!({ "role": "r\u{0}" })),
            "config.linux.security_context.selinux_options.role: \"r\\0\" has characters that no name has",
        ),
    ]);
}

#[test]
fn of_namespaces() {
    const CONTAINER: i32 = 1;
    const NODE: i32 = 2;
    const TARGET: i32 = 3;
    let options = |options: Value| security(json!({ "namespace_options": options }));
    let of_sandbox = |options: Value| pod_security(json!({ "namespace_options": options }));
    for name in ["network", "pid", "ipc"] {
        let field = format!("config.linux.security_context.namespace_options.{name}");
        assert_eq!(
            options(json!({ name: NODE })),
            format!("{field}: is NODE, but the sandbox does not use the node's namespace")
        );
        for of in [&options as &dyn Fn(Value) -> String, &of_sandbox] {
            assert_eq!(of(json!({ name: 9 })), format!("{field}: 9 is not a value of NamespaceMode"));
        }
    }
    all_equal(&[
        (
            options(json!({ "pid": TARGET, "target_id": "x" })),
            "config.linux.security_context.namespace_options.target_id: names no running container of the pod",
        ),
        (
            options(json!({ "pid": CONTAINER, "target_id": "x" })),
            "config.linux.security_context.namespace_options.target_id: goes with pid TARGET only",
        ),
        (
            of_sandbox(json!({ "target_id": "x" })),
            "config.linux.security_context.namespace_options.target_id: goes with pid TARGET only",
        ),
        (
            of_sandbox(json!({ "pid": TARGET })),
            "config.linux.security_context.namespace_options.pid: TARGET is for containers only",
        ),
        (
            of_sandbox(json!({ "ipc": CONTAINER })),
            "config.linux.security_context.namespace_options.ipc: has to be POD or NODE",
        ),
        (
            of_sandbox(json!({ "network": CONTAINER })),
            "config.linux.security_context.namespace_options.network: has to be POD or NODE",
        ),
        (
            options(json!({ "ipc": TARGET })),
            "config.linux.security_context.namespace_options.ipc: has to be POD or NODE",
        ),
    ]);
}

#[test]
fn of_user_namespaces() {
    const NODE: i32 = 2;
    let with = |options: Value| pod_security(json!({ "namespace_options": options }));
    let userns = |options: Value| with(json!({ "userns_options": options }));
    let ids = |host: u32, container: u32, length: u32| json!([{ "host_id": host, "container_id": container, "length": length }]);
    let uids = |uids: Value| userns(json!({ "mode": 0, "uids": uids, "gids": ids(1, 0, 10) }));
    let good = json!({ "mode": 0, "uids": ids(1, 0, 10), "gids": ids(1, 0, 10) });
    let two = json!([ids(1, 0, 10)[0], ids(20, 10, 10)[0]]);
    let texts = [
        (userns(json!({ "mode": 1 })), ".mode: has to be POD or NODE"),
        (userns(json!({ "mode": 3 })), ".mode: has to be POD or NODE"),
        (userns(json!({ "mode": 7 })), ".mode: has to be POD or NODE"),
        (userns(json!({ "mode": NODE, "gids": ids(1, 0, 1) })), ": mappings go with mode POD only"),
        (userns(json!({ "mode": 0 })), ".uids: has 0 mappings, and mode POD takes exactly one"),
        (userns(json!({ "mode": 0, "uids": ids(1, 0, 9) })), ".gids: has 0 mappings, and mode POD takes exactly one"),
        (uids(two), ".uids: has 2 mappings, and mode POD takes exactly one"),
        (uids(ids(1, 1, 10)), ".uids[0].container_id: has to be 0: root has to be mapped"),
        (uids(ids(1, 0, 0)), ".uids[0].length: has to be more than 0"),
        (uids(ids(u32::MAX, 0, 10)), ".uids[0].host_id: and length go past the last id"),
        (uids(ids(1, 0, 11)), ".gids[0].length: is not that of uids"),
    ];
    for (refusal, text) in texts {
        assert_eq!(refusal, format!("config.linux.security_context.namespace_options.userns_options{text}"));
    }
    let others = |name: &str| with(json!({ "userns_options": good, name: NODE }));
    for name in ["pid", "ipc"] {
        let text = "NODE does not go with a user namespace of the pod's";
        assert_eq!(others(name), format!("config.linux.security_context.namespace_options.{name}: {text}"));
    }
    let in_it = |more: Value| {
        let mut context = json!({ "namespace_options": { "userns_options": good } });
        context.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod = json!({ "linux": { "security_context": { "namespace_options": { "userns_options": good } } } });
        refusal(json!({ "sandbox": pod, "container": { "linux": { "security_context": context } } }))
    };
    assert!(in_it(json!({ "run_as_user": { "value": 10 } })).ends_with(".uids: do not map the process's user 10"));
    assert!(in_it(json!({ "supplemental_groups": [3, 12] })).ends_with(".gids: do not map the process's group 12"));
    assert!(in_it(json!({ "namespace_options": {} })).ends_with(".userns_options: differs from that of the sandbox"));
}

/// prost's getters return the default value for such numbers.
#[test]
fn of_numbers_that_no_enum_has() {
    const CONTEXT: &str = "config.linux.security_context";
    for of in [security as fn(Value) -> String, pod_security] {
        let policy = json!({ "supplemental_groups_policy": 2 });
        let text = format!("{CONTEXT}.supplemental_groups_policy: 2 is not a value of SupplementalGroupsPolicy");
        assert_eq!(of(policy), text);
        for name in ["seccomp", "apparmor"] {
            let profile = json!({ name: { "profile_type": -1 } });
            assert_eq!(of(profile), format!("{CONTEXT}.{name}.profile_type: -1 is not a value of ProfileType"));
        }
    }
    let ports = json!([{ "container_port": 1 }, { "protocol": 3, "container_port": 1 }]);
    let ports = refusal(json!({ "sandbox": { "port_mappings": ports } }));
    assert_eq!(ports, "config.port_mappings[1].protocol: 3 is not a value of Protocol");
}

/// The pod's security context, which applies to the pause process. Its fields have the names of a container's.
#[test]
fn of_a_pod() {
    const CONTEXT: &str = "config.linux.security_context";
    let localhost = |path: &str| pod_security(json!({ "seccomp": { "profile_type": 2, "localhost_ref": path } }));
    let on = |host: Value, context: Value| {
        refusal(json!({ "sandbox": { "linux": { "security_context": context } }, "host": host }))
    };
    let texts = [
        (pod_security(json!({ "run_as_user": { "value": -1 } })), "run_as_user: -1 is not between 0 and 2147483647"),
        (pod_security(json!({ "run_as_group": { "value": 1 } })), "run_as_group: needs run_as_user"),
        (
            pod_security(json!({ "run_as_user": { "value": 1 }, "run_as_group": { "value": 2_147_483_648_i64 } })),
            "run_as_group: 2147483648 is not between 0 and 2147483647",
        ),
        (
            pod_security(json!({ "supplemental_groups": [1, -5] })),
            "supplemental_groups: -5 is not between 0 and 2147483647",
        ),
        (localhost("p.json"), "seccomp.localhost_ref: \"p.json\" is not a clean absolute path"),
        (
            pod_security(json!({ "seccomp_profile_path": "localhost/../p.json" })),
            "seccomp_profile_path: \"localhost/../p.json\" is not a clean absolute path",
        ),
        (
            on(json!({ "seccomp": false }), json!({ "seccomp": { "profile_type": 0 } })),
            "seccomp: this kernel has no seccomp filters",
        ),
        (
            on(json!({ "apparmor": false }), json!({ "apparmor": { "profile_type": 2, "localhost_ref": "p" } })),
            "apparmor: this host has no AppArmor",
        ),
        (
            on(json!({ "apparmor": true }), json!({ "apparmor": { "profile_type": 2 } })),
            "apparmor.localhost_ref: is empty",
        ),
        (
            on(json!({ "apparmor": true }), json!({ "apparmor": { "profile_type": 1, "localhost_ref": "p" } })),
            "apparmor.localhost_ref: goes with Localhost only",
        ),
    ];
    for (refusal, text) in texts {
        assert_eq!(refusal, format!("{CONTEXT}.{text}"));
    }
}

#[test]
fn of_resources() {
    let v1 = json!({ "linux": { "resources": { "unified": { "memory.high": "1" } } } });
    let pages = |size: &str| resources(json!({ "hugepage_limits": [{ "page_size": size, "limit": 1 }] }));
    all_equal(&[
        (
            resources(json!({ "oom_score_adj": 1001 })),
            "config.linux.resources.oom_score_adj: 1001 is not between -1000 and 1000",
        ),
        (resources(json!({ "cpu_period": -1 })), "config.linux.resources.cpu_period: -1 is negative"),
        (resources(json!({ "cpu_shares": -2 })), "config.linux.resources.cpu_shares: -2 is negative"),
        (resources(json!({ "cpu_quota": -2 })), "config.linux.resources.cpu_quota: -2 is below -1"),
        (
            resources(json!({ "memory_limit_in_bytes": -2 })),
            "config.linux.resources.memory_limit_in_bytes: -2 is below -1",
        ),
        (pages("2 MB"), "config.linux.resources.hugepage_limits[0].page_size: \"2 MB\" is not a size such as 2MB"),
        (pages("2Mi"), "config.linux.resources.hugepage_limits[0].page_size: \"2Mi\" is not a size such as 2MB"),
        (
            refusal(json!({
                "container": { "linux": { "resources": { "hugepage_limits": [{ "page_size": "2MB", "limit": 1 }] } } },
                "host": { "hugetlb": false },
            })),
            "config.linux.resources.hugepage_limits[0]: this host has no cgroup controller hugetlb",
        ),
        (
            refusal(json!({ "container": v1, "host": { "cgroup_v2": false } })),
            "config.linux.resources.unified: needs cgroup v2",
        ),
        (
            resources(json!({ "unified": { "../memory.max": "1" } })),
            "config.linux.resources.unified: \"../memory.max\" is not a file of a cgroup",
        ),
        (
            resources(json!({ "memory_limit_in_bytes": 9, "memory_swap_limit_in_bytes": 8 })),
            "config.linux.resources.memory_swap_limit_in_bytes: 8 is neither -1 nor at least memory_limit_in_bytes, which it contains",
        ),
        (
            resources(json!({ "memory_swap_limit_in_bytes": 8 })),
            "config.linux.resources.memory_swap_limit_in_bytes: 8 is a limit of memory and swap together, and needs memory_limit_in_bytes",
        ),
        (
            resources(json!({ "memory_limit_in_bytes": -1, "memory_swap_limit_in_bytes": 8 })),
            "config.linux.resources.memory_swap_limit_in_bytes: 8 is a limit of memory and swap together, and needs memory_limit_in_bytes",
        ),
    ]);
}

#[test]
fn of_sysctls() {
    let sysctl = |key: &str, value: &str| sandbox(json!({ "sysctls": { key: value } }));
    let on_host = |key: &str| {
        let options = json!({ "network": 2, "ipc": 2 });
        sandbox(json!({ "sysctls": { key: "1" }, "security_context": { "namespace_options": options } }))
    };
    all_equal(&[
        (
            sysctl("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
            "config.linux.sysctls[kernel.shm_rmid_forced]: has a control character, a + or a =",
        ),
        (
            sysctl("net.core.somaxconn", "1\n2"),
            "config.linux.sysctls[net.core.somaxconn]: has a control character, a + or a =",
        ),
        (sysctl("Net.x", "1"), "config.linux.sysctls[Net.x]: is not the name of a sysctl"),
        (sysctl("net/../kernel", "1"), "config.linux.sysctls[net/../kernel]: is not the name of a sysctl"),
        (
            sysctl("kernel.core_pattern", "x"),
            "config.linux.sysctls[kernel.core_pattern]: is not namespaced: it would change the host",
        ),
        (
            on_host("net.ipv4.ip_forward"),
            "config.linux.sysctls[net.ipv4.ip_forward]: would change the host: the pod uses the host's network namespace",
        ),
        (
            on_host("fs.mqueue.msg_max"),
            "config.linux.sysctls[fs.mqueue.msg_max]: would change the host: the pod uses the host's IPC namespace",
        ),
        (
            on_host("kernel.domainname"),
            "config.linux.sysctls[kernel.domainname]: would change the host: the pod uses the host's network namespace",
        ),
    ]);
}

#[test]
fn of_a_spec_of_mounts() {
    let mount =
        |mount: Value, handler: Value| refusal(json!({ "container": { "mounts": [mount] }, "handler": handler }));
    let rro = json!({ "container_path": "/x", "host_path": "/x", "readonly": true, "recursive_read_only": true });
    let ids = json!([{ "host_id": 1, "container_id": 0, "length": 1 }]);
    let mapped = json!({ "container_path": "/x", "host_path": "/x", "uid_mappings": ids, "gid_mappings": ids });
    all_equal(&[
        (
            mount(rro, json!({ "recursive_read_only": false })),
            "config.mounts[0].recursive_read_only: RROUnsupported: the runtime of handler \"runc\" has no such mounts",
        ),
        (
            mount(mapped, json!({ "id_mapped_mounts": false })),
            "config.mounts[0].uidMappings: the runtime of handler \"runc\" has no id-mapped mounts",
        ),
    ]);
}

/// Deserializes `good` after some of its keys have been changed.
fn changed<T: DeserializeOwned>(good: &Value, change: Value) -> T {
    let mut json = good.clone();
    json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(json).unwrap()
}

/// Checks the error for each changed mount, which follows an unchanged, valid one.
async fn assert_mounts_refused(prefix: &str, good: Value, table: &[(Value, &str)]) {
    for (change, text) in table {
        let mounts: [Mount; 2] = [changed(&good, json!({})), changed(&good, change.clone())];
        let error = mounts::resolve(&mounts, MissingHostPath::Error).await.unwrap_err().to_string();
        assert_eq!(error, format!("{prefix}config.mounts[1].{text}"));
    }
}

/// These errors are returned before any path on the host is looked up.
#[tokio::test]
async fn of_mounts_before_the_host_is_asked() {
    let table = [
        (json!({ "container_path": "" }), "container_path: is required"),
        (json!({ "container_path": "x" }), "container_path: is not absolute"),
        (json!({ "host_path": "" }), "host_path: is required"),
        (json!({ "host_path": "data" }), "host_path: is not absolute"),
        (json!({ "propagation": 7 }), "propagation: 7 is not a value of MountPropagation"),
        (json!({ "recursive_read_only": true }), "recursive_read_only: requires readonly"),
        (
            json!({ "recursive_read_only": true, "readonly": true, "propagation": 1 }),
            "recursive_read_only: requires PROPAGATION_PRIVATE",
        ),
        (json!({ "image_sub_path": "x" }), "image_sub_path: needs an image"),
        (json!({ "mount_options": ["noexec", "suid"] }), "mount_options: \"suid\" is none of nosuid, noexec, nodev"),
    ];
    assert_mounts_refused("", json!({ "container_path": "/x", "host_path": "/" }), &table).await;
}

/// kubelet looks for `ImageVolumeMountFailed` in the text.
#[tokio::test]
async fn of_mounts_of_images() {
    let table = [
        (json!({ "image": { "image": "" } }), "image.image: is required"),
        (json!({ "host_path": "/x" }), "host_path: and image exclude each other"),
        (json!({ "readonly": false }), "readonly: an image is mounted read-only, so it has to be true"),
        (json!({ "image_sub_path": "/x" }), "image_sub_path: is absolute"),
        (json!({ "image_sub_path": "x/../y" }), "image_sub_path: has a .."),
        (json!({ "image_sub_path": "x\0y" }), "image_sub_path: has a NUL"),
    ];
    let good = json!({ "container_path": "/x", "readonly": true, "image": { "image": "example" } });
    assert_mounts_refused("ImageVolumeMountFailed: ", good, &table).await;
}

#[tokio::test]
async fn of_devices_before_the_host_is_asked() {
    let good = json!({ "host_path": "/dev/null", "container_path": "/dev/null", "permissions": "r" });
    let table = [
        (json!({ "host_path": "null" }), "host_path: is not absolute"),
        (json!({ "container_path": "null" }), "container_path: is not absolute"),
        (json!({ "permissions": "" }), "permissions: one or more of r, w and m are required"),
        (json!({ "permissions": "rx" }), "permissions: 'x' is none of r, w and m"),
    ];
    for (change, text) in table {
        let device: Device = changed(&good, change);
        let error = devices::resolve(&[device], false, devices::Owner::default()).await.unwrap_err().to_string();
        assert_eq!(error, format!("config.devices[0].{text}"));
    }
}
