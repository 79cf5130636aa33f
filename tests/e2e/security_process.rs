//! Known flaws in how a process is set up: users, groups, capabilities, environment, working directory, sysctls, exec.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, Int64Value, KeyValue, NamespaceMode, SupplementalGroupsPolicy};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

use crate::bad_input::refused;
use crate::bed::{BUSYBOX, SOON, Target, output, until};
use crate::harness::{Outcome, Test, rule};
use crate::registry::Says;
use crate::scope::{Pod, Scope, cgroup_hierarchies, namespaces, resources, security, shell, sleeper};
use crate::security::{Peak, add_capabilities, create_and_start, evil, of_user, shell_of};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cve_2018_1000400_no_ambient_capability_unless_asked_for),
        rule!(cve_2019_11245_the_images_user_at_every_restart),
        rule!(cve_2019_14891_no_helper_in_the_pods_cgroup),
        rule!(cve_2021_21334_an_environment_is_one_containers_own),
        rule!(cve_2022_0532_no_sysctl_of_the_host),
        rule!(cve_2022_0811_one_sysctl_is_one_sysctl),
        rule!(cve_2022_24769_and_29162_nothing_is_inheritable),
        rule!(cve_2022_31030_and_1708_exec_output_is_bounded)
            .alone()
            .only_pontoon("its answer is larger than the largest message that kubelet takes"),
        rule!(cve_2022_4318_a_home_with_a_newline_writes_no_passwd),
        rule!(cve_2023_25173_all_groups_and_no_others),
        rule!(cve_2024_21626_no_directory_through_open_files),
        rule!(cve_2024_40635_no_uid_wraps_to_root),
        rule!(cve_2026_46680_a_number_is_no_name),
        rule!(af_alg_and_af_vsock_are_closed_by_the_default_profile),
    ]
}

const CAPABILITIES: &str = "grep Cap /proc/self/status";

/// The hex digits of a capability set in the output of [`CAPABILITIES`].
fn set<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or("missing").trim()
}

const NONE: &str = "0000000000000000";

async fn cve_2018_1000400_no_ambient_capability_unless_asked_for(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", CAPABILITIES);
    security(&mut config).run_as_user = Some(Int64Value { value: 1000 });
    security(&mut config).capabilities = add_capabilities(&["NET_BIND_SERVICE"]);
    let said = pod.says(config).await?;
    ensure!(set(&said, "CapAmb") == NONE && set(&said, "CapPrm") == NONE && set(&said, "CapEff") == NONE, "{said}");
    Ok(())
}

async fn cve_2019_11245_the_images_user_at_every_restart(scope: Arc<Scope>) -> Outcome {
    let image = "gcr.io/k8s-staging-cri-tools/test-image-user-uid:latest";
    scope.bed.pull(image).await?;
    let pod = scope.pod().await?;
    for attempt in 0..3 {
        let mut config = shell_of(image, "main", "id -u");
        config.metadata.get_or_insert_default().attempt = attempt;
        config.log_path = format!("main/{attempt}.log");
        let said = pod.says(config).await?;
        ensure!(said.trim() == "1002", "attempt {attempt}: {said}");
    }
    Ok(())
}

/// The names of all processes in the pod's cgroups.
fn in_cgroup(pod: &Pod) -> anyhow::Result<Vec<String>> {
    let parent = &pod.config.linux.as_ref().context("linux")?.cgroup_parent;
    let mut names = Vec::new();
    let mut left: Vec<_> = cgroup_hierarchies().iter().map(|at| at.join(parent.trim_start_matches('/'))).collect();
    while let Some(directory) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        left.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        for pid in std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
            names.push(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned());
        }
    }
    Ok(names)
}

async fn cve_2019_14891_no_helper_in_the_pods_cgroup(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    pod.start(sleeper("other")).await?;
    // runc's init is in the cgroup until it executes the container's command. That may be just after StartContainer's
    // response.
    let helpers = ["containerd", "pontoon", "runc", "conmon"];
    let only_the_pods = || async {
        let names = in_cgroup(&pod)?;
        ensure!(names.iter().any(|name| name == "sh" || name == "busybox"), "not the pod's cgroup: {names:?}");
        ensure!(!names.iter().any(|name| helpers.iter().any(|helper| name.starts_with(helper))), "{names:?}");
        Ok(())
    };
    until(SOON, only_the_pods).await?;
    let mut config = shell("main", "tail /dev/zero");
    resources(&mut config).memory_limit_in_bytes = 16 << 20;
    let id = pod.start(config).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.reason == "OOMKilled" && status.exit_code == 137, "{} {}", status.reason, status.exit_code);
    let state = pod.status().await?.status.context("status")?.state();
    ensure!(state == v1::PodSandboxState::SandboxReady, "the pod is {state:?}");
    Ok(())
}

async fn cve_2021_21334_an_environment_is_one_containers_own(scope: Arc<Scope>) -> Outcome {
    const PAIRS: usize = 25;
    let pod = Arc::new(scope.pod().await?);
    let mut creating = JoinSet::new();
    for number in 0..PAIRS * 2 {
        let pod = pod.clone();
        creating.spawn(async move {
            let mut config = sleeper(&format!("c{number}"));
            if number % 2 == 0 {
                config.envs = vec![KeyValue { key: format!("SECRET_{number}"), value: b"x".to_vec() }];
            }
            anyhow::Ok((number, pod.create(config).await?))
        });
    }
    let mut started = 0;
    while let Some(done) = creating.join_next().await {
        let (number, id) = done??;
        let env = scope.bed.info(&id).await?["runtimeSpec"]["process"]["env"].clone();
        let secrets: Vec<&str> = env
            .as_array()
            .context("env")?
            .iter()
            .filter_map(|e| e.as_str())
            .filter(|e| e.starts_with("SECRET"))
            .collect();
        let own = format!("SECRET_{number}=x");
        let expected: &[&str] = if number % 2 == 0 { &[&own] } else { &[] };
        ensure!(secrets == expected, "container {number}: {secrets:?}");
        if started < 4 {
            started += 1;
            scope.bed.start(&id).await?;
            let said = scope.bed.sh(&id, "env | grep SECRET || true").await?;
            ensure!(said == expected.join("\n"), "container {number}: {said}");
        }
    }
    Ok(())
}

async fn run_with_sysctl(scope: &Scope, key: &str, value: &str, on_host: bool) -> anyhow::Result<Pod> {
    let mut config = scope.pod_config();
    let linux = config.linux.get_or_insert_default();
    linux.sysctls = HashMap::from([(key.to_owned(), value.to_owned())]);
    if on_host {
        let mut options = namespaces(NamespaceMode::Node, NamespaceMode::Container);
        options.ipc = NamespaceMode::Node.into();
        linux.security_context.get_or_insert_default().namespace_options = Some(options);
    }
    scope.run(config).await
}

fn sysctl(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).unwrap_or_default()
}

async fn sysctl_is_refused(scope: &Scope, key: &str, value: &str, on_host: bool) -> Outcome {
    let before = sysctl(key);
    let result = run_with_sysctl(scope, key, value, on_host).await.map(|pod| pod.id);
    let after = sysctl(key);
    if after != before {
        std::fs::write(format!("/proc/sys/{}", key.replace('.', "/")), &before)?;
    }
    ensure!(after == before, "{key} of the host was {before:?} and is {after:?}");
    refused(scope, result, Code::InvalidArgument, key)
}

async fn cve_2022_0532_no_sysctl_of_the_host(scope: Arc<Scope>) -> Outcome {
    // Values that differ from the current ones, but do no harm until they are restored.
    for (key, value) in
        [("net.ipv4.ip_default_ttl", "65"), ("kernel.shm_rmid_forced", "1"), ("fs.mqueue.msg_max", "11")]
    {
        sysctl_is_refused(&scope, key, value, true).await?;
    }
    for (key, value) in [("kernel.panic_on_warn", "0"), ("vm.swappiness", "59"), ("kernel/pid_max", "4194303")] {
        sysctl_is_refused(&scope, key, value, false).await?;
    }
    // A sysctl of the pod's own namespace can be set.
    let pod = run_with_sysctl(&scope, "net.ipv4.ip_default_ttl", "65", false).await?;
    let said = pod.says(shell("main", "cat /proc/sys/net/ipv4/ip_default_ttl")).await?;
    ensure!(said.trim() == "65", "{said}");
    Ok(())
}

async fn cve_2022_0811_one_sysctl_is_one_sysctl(scope: Arc<Scope>) -> Outcome {
    let before = sysctl("kernel.core_pattern");
    for (key, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/x"),
        ("net.ipv4/../../kernel/core_pattern", "|/x"),
    ] {
        let result = run_with_sysctl(&scope, key, value, false).await.map(|pod| pod.id);
        ensure!(sysctl("kernel.core_pattern") == before, "core_pattern was changed by {key}={value:?}");
        // The built-in leaves the check of names to runc, which normalizes the path in one of them.
        if scope.bed.target == Target::Pontoon {
            refused(&scope, result, Code::InvalidArgument, "sysctls")?;
        }
    }
    Ok(())
}

/// Also covers CVE-2022-27652 of CRI-O.
async fn cve_2022_24769_and_29162_nothing_is_inheritable(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let pod = scope.run(config).await?;
    let plain = sleeper("plain");
    let mut added = sleeper("added");
    security(&mut added).capabilities = add_capabilities(&["NET_ADMIN", "SYS_TIME"]);
    let mut privileged = sleeper("privileged");
    security(&mut privileged).privileged = true;
    for config in [plain, added, privileged] {
        let id = pod.start(config).await?;
        for (what, script) in [("its own", "grep Cap /proc/1/status"), ("an exec's", CAPABILITIES)] {
            let said = scope.bed.sh(&id, script).await?;
            ensure!(set(&said, "CapInh") == NONE && set(&said, "CapAmb") == NONE, "{what}: {said}");
            ensure!(set(&said, "CapEff") != NONE, "{what}: {said}");
        }
    }
    Ok(())
}

async fn cve_2022_31030_and_1708_exec_output_is_bounded(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let kept = scope.bed.dir.join("run");
    let before = disk_usage(&kept).await?;
    let peak = Peak::of(&scope.bed)?;
    let done = scope.bed.exec(&id, &["sh", "-c", "head -c 500000000 /dev/zero; exit 7"], 60).await?;
    let grown = peak.grown()?;
    ensure!(done.code == 7, "exit code {}", done.code);
    let length = done.stdout.len();
    ensure!(length > 15 << 20 && length < 16 << 20, "{length} bytes");
    ensure!(grown < 40 << 10, "the daemon grew by {grown} kB");
    let after = disk_usage(&kept).await?;
    ensure!(after <= before + 64, "{before} kB on disk, now {after}");
    Ok(())
}

async fn disk_usage(path: &std::path::Path) -> anyhow::Result<u64> {
    let said = output(tokio::process::Command::new("du").args(["-skx"]).arg(path)).await?;
    Ok(said.split_whitespace().next().context("du")?.parse()?)
}

/// Also covers CVE-2026-15809: the fix of CVE-2022-4318 looked for a backslash followed by an n.
async fn cve_2022_4318_a_home_with_a_newline_writes_no_passwd(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let passwd = pod.says(shell("before", "cat /etc/passwd")).await?;
    for (name, home) in [("newline", "/root\nx::0:0::/:/bin/sh"), ("escaped", "/root\\nx::0:0::/:/bin/sh")] {
        let mut config = shell(name, "cat /etc/passwd");
        config.envs = vec![KeyValue { key: "HOME".into(), value: home.into() }];
        // CRI-O wrote an entry to the file only for a user that the file does not have.
        security(&mut config).run_as_user = Some(Int64Value { value: 4321 });
        ensure!(pod.says(config).await? == passwd, "{name}");
    }
    Ok(())
}

type Context = v1::LinuxContainerSecurityContext;

fn as_user(value: i64) -> Context {
    Context { run_as_user: Some(Int64Value { value }), ..Default::default() }
}

/// The cases of containerd's TestAdditionalGids: a name, the security context, the expected primary group, and all
/// expected groups.
fn groups_of() -> [(&'static str, Context, &'static str, &'static str); 7] {
    let group = Some(Int64Value { value: 1500 });
    let more = vec![5000];
    let strict = SupplementalGroupsPolicy::Strict.into();
    let by_name = Context { run_as_username: "alice".into(), ..Default::default() };
    let with_group = Context { run_as_group: group, ..as_user(1000) };
    let with_more = Context { supplemental_groups: more.clone(), ..with_group.clone() };
    let only_more = Context { supplemental_groups: more, supplemental_groups_policy: strict, ..as_user(1000) };
    [
        ("image", Context::default(), "1001", "10 20 1001"),
        ("name", by_name, "1001", "10 20 1001"),
        ("uid", as_user(1000), "1001", "10 20 1001"),
        ("group", with_group, "1500", "10 20 1500"),
        ("more", with_more, "1500", "10 20 1500 5000"),
        ("strict", only_more, "1001", "1001 5000"),
        ("unknown", as_user(4321), "0", "0"),
    ]
}

/// Also covers CVE-2022-2995 of CRI-O.
async fn cve_2023_25173_all_groups_and_no_others(scope: Arc<Scope>) -> Outcome {
    let fill = |root: &std::path::Path| {
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nalice:x:1000:1001::/:/bin/sh\n")?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nalice:x:1001:\nten:x:10:alice\ntwenty:x:20:bob,alice\n")?;
        Ok(())
    };
    let image = evil(&scope, fill, &of_user("alice")).await?;
    let pod = scope.pod().await?;
    for (name, context, gid, groups) in groups_of() {
        let mut config = shell_of(&image, name, "id -g; id -G");
        let options = security(&mut config).namespace_options.clone();
        *security(&mut config) = Context { namespace_options: options, ..context };
        let said = pod.says(config).await?;
        let (first, rest) = said.trim().split_once('\n').context("two lines")?;
        let mut has: Vec<u32> = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        has.sort_unstable();
        has.dedup();
        let has: Vec<String> = has.iter().map(ToString::to_string).collect();
        ensure!(first == gid && has.join(" ") == groups, "{name}: {said}, not {gid} and {groups}");
    }
    Ok(())
}

async fn cve_2024_21626_no_directory_through_open_files(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (number, path) in ["/proc/self/fd/7", "/proc/self/fd/20/../..", "/proc/thread-self/fd/3", "/./proc/1/fd/8"]
        .into_iter()
        .enumerate()
    {
        let mut config = shell(&format!("c{number}"), "pwd");
        config.working_dir = path.to_owned();
        refused(&scope, create_and_start(&scope, &pod, config).await, Code::InvalidArgument, "working_dir")?;
    }
    let says = Says { config: json!({"WorkingDir": "/proc/self/fd/8"}), ..Says::default() };
    let image = evil(&scope, |_| Ok(()), &says).await?;
    let result = create_and_start(&scope, &pod, shell_of(&image, "image", "true")).await;
    refused(&scope, result, Code::InvalidArgument, "working directory")?;
    let id = pod.start(sleeper("open")).await?;
    let said = scope.bed.sh(&id, "cd /proc/1/fd; echo *").await?;
    // The shell itself keeps one file of its own open, as descriptor 10.
    ensure!(said.split_whitespace().all(|fd| ["0", "1", "2", "10"].contains(&fd)), "{said}");
    Ok(())
}

type Change = fn(&mut v1::LinuxContainerSecurityContext, i64);

async fn cve_2024_40635_no_uid_wraps_to_root(scope: Arc<Scope>) -> Outcome {
    const FIELDS: [(&str, Change); 3] = [
        ("run_as_user", |context, value| context.run_as_user = Some(Int64Value { value })),
        ("run_as_group", |context, value| {
            context.run_as_user = Some(Int64Value { value: 1 });
            context.run_as_group = Some(Int64Value { value });
        }),
        ("supplemental_groups", |context, value| context.supplemental_groups = vec![value]),
    ];
    let pod = scope.pod().await?;
    let mut number = 0;
    let mut taken: Vec<String> = Vec::new();
    // The built-in accepts any supplemental group, and the kernel uses the lower half of its bits.
    let fields = if scope.bed.target == Target::Pontoon { &FIELDS[..] } else { &FIELDS[..2] };
    for (field, change) in fields.iter().copied() {
        for value in [-1, 2_147_483_648, 4_294_967_295, 4_294_967_296] {
            number += 1;
            let mut config = shell(&format!("c{number}"), "id -u");
            change(security(&mut config), value);
            let result = create_and_start(&scope, &pod, config).await;
            if result.is_ok() {
                taken.push(format!("{field} {value}"));
            } else {
                refused(&scope, result, Code::InvalidArgument, field)?;
            }
        }
    }
    ensure!(taken.is_empty(), "taken: {taken:?}");
    for user in ["4294967296:0", "2147483648", "-1", "0:4294967296"] {
        let image = evil(&scope, |_| Ok(()), &of_user(user)).await?;
        number += 1;
        let result = create_and_start(&scope, &pod, shell_of(&image, &format!("c{number}"), "id -u")).await;
        refused(&scope, result, Code::InvalidArgument, "the image's USER").with_context(|| format!("USER {user}"))?;
    }
    Ok(())
}

async fn cve_2026_46680_a_number_is_no_name(scope: Arc<Scope>) -> Outcome {
    let passwd = "root:x:0:0::/:/bin/sh\n99999999999:x:0:0::/:/bin/sh\n";
    let group = "root:x:0:\n99999999999:x:0:\n";
    let pod = scope.pod().await?;
    for (number, user) in ["99999999999", "1:99999999999", "+99999999999"].into_iter().enumerate() {
        let fill = |root: &std::path::Path| {
            std::fs::write(root.join("etc/passwd"), passwd)?;
            std::fs::write(root.join("etc/group"), group)?;
            Ok(())
        };
        let image = evil(&scope, fill, &of_user(user)).await?;
        let result = create_and_start(&scope, &pod, shell_of(&image, &format!("c{number}"), "id -u")).await;
        refused(&scope, result, Code::InvalidArgument, "the image's USER").with_context(|| format!("USER {user}"))?;
    }
    let mut config = shell("name", "id -u");
    security(&mut config).run_as_username = "99999999999".into();
    refused(&scope, create_and_start(&scope, &pod, config).await, Code::InvalidArgument, "run_as_username")
}

const SOCKETS: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
static void try(int domain, int type) {
    int fd = socket(domain, type, 0);
    printf("%d %s\n", domain, fd >= 0 ? "open" : errno == EPERM ? "EPERM" : strerror(errno));
}
int main(void) {
    try(AF_INET, SOCK_STREAM);
    try(AF_ALG, SOCK_SEQPACKET);
    try(AF_VSOCK, SOCK_STREAM);
    return 0;
}
"#;

/// In 2.3.1 and 2.4.2, containerd closed AF_ALG (the kernel's cryptography) and AF_VSOCK (the way to the hypervisor).
async fn af_alg_and_af_vsock_are_closed_by_the_default_profile(scope: Arc<Scope>) -> Outcome {
    use v1::security_profile::ProfileType;
    let programs = scope.volume("programs")?;
    let source = programs.join("sockets.c");
    std::fs::write(&source, SOCKETS)?;
    output(tokio::process::Command::new("gcc").args(["-static", "-o"]).arg(programs.join("sockets")).arg(&source))
        .await?;
    let pod = scope.pod().await?;
    let run = |name: &str, profile: ProfileType| {
        let mut config = ContainerConfig {
            mounts: vec![v1::Mount {
                container_path: "/programs".into(),
                host_path: programs.display().to_string(),
                readonly: true,
                ..Default::default()
            }],
            image: Some(crate::bed::image_spec(BUSYBOX)),
            ..shell(name, "/programs/sockets")
        };
        security(&mut config).seccomp =
            Some(v1::SecurityProfile { profile_type: profile.into(), ..Default::default() });
        pod.says(config)
    };
    let said = run("default", ProfileType::RuntimeDefault).await?;
    ensure!(said == "2 open\n38 EPERM\n40 EPERM\n", "{said}");
    let said = run("none", ProfileType::Unconfined).await?;
    if said.contains("EPERM") {
        bail!("this kernel itself says EPERM, so that nothing was shown: {said}");
    }
    Ok(())
}
