//! Random requests, mostly such as kubelet could send, with some unusual content.

mod large;

use std::path::{Path, PathBuf};

use pontoon::api::v1::*;
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::containerd::IMAGE;
use super::requests;

/// Values for fields with a name, an id, a path or any text.
const TEXTS: [&str; 16] = [
    "",
    "a",
    "a;b=c",
    "a\nb",
    "a\0b",
    "../../x",
    "/",
    ".",
    "..",
    "a/b",
    " ",
    "%n%s$(id)",
    "\u{1f980}\u{202e}",
    "containerd.io/gc.root",
    "cdi.k8s.io/x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
const NUMBERS: [i64; 14] =
    [0, 1, -1, 2, 100, 1000, 1024, 4096, 1 << 30, (1 << 31) - 1, 1 << 31, 1 << 32, i64::MAX, i64::MIN];
/// Values for enum fields, where a client may send any number.
const CHOICES: [i32; 8] = [0, 1, 2, 3, 4, 7, -1, i32::MAX];

/// The source of all random values. The same seed produces the same requests.
pub struct Draw {
    rng: TestRng,
    /// Paths of mounts and logs are below this directory, where the server may create what does not exist.
    directory: PathBuf,
    /// How many bytes of large content the request may still get.
    budget: usize,
}

impl Draw {
    pub fn new(seed: u64, directory: &Path) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes), directory: directory.to_owned(), budget: 0 }
    }

    pub fn below(&mut self, most: usize) -> usize {
        self.rng.random_range(0..most)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub fn flag(&mut self) -> bool {
        self.rng.random()
    }

    pub fn text(&mut self) -> String {
        if self.chance(5) { self.large_text() } else { self.one(&TEXTS).to_owned() }
    }

    pub fn number(&mut self) -> i64 {
        if self.chance(10) { self.rng.random() } else { self.one(&NUMBERS) }
    }

    /// A random value in a few cases, and otherwise the default.
    fn seldom<T: Default>(&mut self, make: impl FnOnce(&mut Self) -> T) -> T {
        if self.chance(8) { make(self) } else { T::default() }
    }

    fn some<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| make(self)).collect()
    }

    fn texts(&mut self) -> Vec<String> {
        self.some(Self::text)
    }

    fn pairs(&mut self) -> std::collections::HashMap<String, String> {
        let number = self.flag();
        let key = |draw: &mut Self| if number { draw.below(100_000).to_string() } else { draw.text() };
        self.some(|draw| (key(draw), draw.text())).into_iter().collect()
    }

    /// Mostly one of the last of these ids, otherwise another one, a part of one, or no id at all.
    pub fn id(&mut self, known: &[String]) -> String {
        match self.below(12) {
            0 => self.text(),
            1 if !known.is_empty() => {
                let length = self.below(64);
                self.one(known).chars().take(length).collect()
            }
            2 if !known.is_empty() => format!("{}{}", self.one(known), self.one(&["x", "/", "\n", " "])),
            _ if known.is_empty() => "b".repeat(64),
            3 => self.one(known),
            // The most recent objects are likely to still exist.
            _ => self.one(&known[known.len().saturating_sub(4)..]),
        }
    }

    fn path(&mut self) -> String {
        let name = self.one(&["a", "b/c", "b/../d", "e/", "./f", "g\nh"]);
        match self.below(12) {
            2 => self.large_path(),
            0 | 1 => self.one(&["", "relative", "a\0b"]).to_owned(),
            _ => self.directory.join(name).display().to_string(),
        }
    }

    pub fn pod(&mut self) -> RunPodSandboxRequest {
        self.refill();
        let name = self.one(&["p0", "p1", "p2", "p3", "p4"]);
        let mut request = requests::pod(&self.directory, name);
        request.runtime_handler = self.seldom(Self::text);
        if self.chance(3) {
            request.config = None;
        }
        let Some(config) = request.config.as_mut() else { return request };
        if let Some(metadata) = config.metadata.as_mut() {
            metadata.attempt = self.seldom(|draw| draw.rng.random());
            metadata.namespace += &self.seldom(Self::text);
        }
        if self.chance(10) {
            config.hostname = self.text();
        }
        if self.chance(10) {
            config.log_directory = self.path();
        }
        config.dns_config =
            self.seldom(|d| Some(DnsConfig { servers: d.texts(), searches: d.texts(), options: d.texts() }));
        config.port_mappings = self.seldom(|draw| draw.some(Self::port));
        config.labels = self.seldom(Self::pairs);
        config.annotations = self.seldom(Self::pairs);
        if let Some(linux) = config.linux.as_mut() {
            self.linux_pod(linux);
        }
        request
    }

    fn port(&mut self) -> PortMapping {
        let mut port = || i32::try_from(self.number()).unwrap_or(80);
        let (container_port, host_port) = (port(), port());
        PortMapping { protocol: self.one(&CHOICES), container_port, host_port, host_ip: self.text() }
    }

    fn linux_pod(&mut self, linux: &mut LinuxPodSandboxConfig) {
        if self.chance(20) {
            linux.cgroup_parent =
                self.one(&["", "/", "a.slice", "a-b.slice", "-.slice", "/../../x", "a\nb"]).to_owned();
        }
        linux.sysctls = self.seldom(|draw| {
            let key = draw.one(&["net.ipv4.ip_forward", "kernel.shm_rmid_forced", "kernel.core_pattern", "a b"]);
            [(key.to_owned(), draw.text())].into()
        });
        linux.overhead = self.seldom(|draw| Some(draw.resources()));
        linux.resources = self.seldom(|draw| Some(draw.resources()));
        linux.security_context = self.seldom(|draw| {
            Some(LinuxSandboxSecurityContext {
                namespace_options: Some(draw.namespaces("")),
                selinux_options: draw.seldom(|draw| Some(draw.selinux())),
                run_as_user: draw.seldom(|draw| Some(Int64Value { value: draw.number() })),
                run_as_group: draw.seldom(|draw| Some(Int64Value { value: draw.number() })),
                supplemental_groups: draw.seldom(|draw| draw.some(Self::number)),
                supplemental_groups_policy: draw.seldom(|draw| draw.one(&CHOICES)),
                privileged: draw.flag(),
                seccomp: draw.seldom(|draw| Some(draw.profile())),
                apparmor: draw.seldom(|draw| Some(draw.profile())),
                ..LinuxSandboxSecurityContext::default()
            })
        });
    }

    fn namespaces(&mut self, target: &str) -> NamespaceOption {
        let mapping = |draw: &mut Self| IdMapping {
            host_id: draw.one(&[0, 65536, u32::MAX]),
            container_id: draw.one(&[0, 0, 1, u32::MAX]),
            length: draw.one(&[65536, 1, 0, u32::MAX]),
        };
        NamespaceOption {
            network: self.seldom(|draw| draw.one(&CHOICES)),
            pid: self.one(&[0, 1, 1, 2, 3, 9]),
            ipc: self.seldom(|draw| draw.one(&CHOICES)),
            target_id: self.seldom(|_| target.to_owned()),
            userns_options: self.seldom(|draw| {
                let uids = draw.some(mapping);
                let gids = if draw.chance(70) { uids.clone() } else { draw.some(mapping) };
                Some(UserNamespace { mode: draw.one(&CHOICES), uids, gids })
            }),
        }
    }

    fn selinux(&mut self) -> SeLinuxOption {
        SeLinuxOption { user: self.text(), role: self.text(), r#type: self.text(), level: self.text() }
    }

    fn profile(&mut self) -> SecurityProfile {
        SecurityProfile { profile_type: self.one(&CHOICES), localhost_ref: self.text() }
    }

    pub fn resources(&mut self) -> LinuxContainerResources {
        self.refill();
        LinuxContainerResources {
            cpu_period: self.seldom(Self::number),
            cpu_quota: self.seldom(Self::number),
            cpu_shares: self.seldom(Self::number),
            memory_limit_in_bytes: self.seldom(Self::number),
            oom_score_adj: self.seldom(Self::number),
            cpuset_cpus: self.seldom(Self::text),
            cpuset_mems: self.seldom(Self::text),
            hugepage_limits: self
                .seldom(|draw| draw.some(|draw| HugepageLimit { page_size: draw.text(), limit: draw.rng.random() })),
            unified: self.seldom(Self::pairs),
            memory_swap_limit_in_bytes: self.seldom(Self::number),
        }
    }

    pub fn image(&mut self) -> ImageSpec {
        let image = match self.below(4) {
            0 => IMAGE.to_owned(),
            1 => self.one(&["registry.example/none:1", "reg.example/../evil/x", "x@sha256:ab", "[::1]/x"]).to_owned(),
            _ => self.text(),
        };
        ImageSpec {
            image,
            annotations: self.seldom(Self::pairs),
            user_specified_image: self.seldom(Self::text),
            runtime_handler: self.seldom(Self::text),
            image_ref: self.seldom(Self::text),
        }
    }

    /// A container of the given pod. `target` is the id of any container.
    pub fn container(&mut self, pod: (&str, &RunPodSandboxRequest), target: &str) -> CreateContainerRequest {
        self.refill();
        let name = self.one(&["c0", "c1", "c2"]);
        let command: &[&str] = self.one(&[
            ["fake"].as_slice(),
            &["fake", "exit=0"],
            &["fake", "out=x\n", "exit=3", "after=20"],
            &["fake", "cat"],
            &["fake", "flood=100000", "exit=0"],
        ]);
        let mut request = requests::container(pod.0, pod.1, name, command);
        if self.chance(5) {
            request.sandbox_config = None;
        }
        let Some(config) = request.config.as_mut() else { return request };
        if let Some(metadata) = config.metadata.as_mut() {
            metadata.attempt = self.seldom(|draw| draw.rng.random());
            metadata.name += &self.seldom(Self::text);
        }
        if self.chance(8) {
            config.image = Some(self.image());
        }
        if self.chance(8) {
            (config.command, config.args) = (vec![format!("x{}", self.text())], self.texts());
        }
        config.working_dir = self.seldom(Self::text);
        config.envs =
            self.seldom(|draw| draw.some(|draw| KeyValue { key: draw.text(), value: draw.text().into_bytes() }));
        config.mounts = self.seldom(|draw| draw.some(Self::mount));
        config.devices = self.seldom(|draw| draw.some(Self::device));
        config.labels = self.seldom(Self::pairs);
        config.annotations = self.seldom(Self::pairs);
        if self.chance(10) {
            config.log_path = match self.below(4) {
                0 => self.text(),
                _ => self.one(&["", "a/b.log", "../x", "/x", "a\0b", "dir/", ".", "a\nb"]).to_owned(),
            };
        }
        (config.stdin, config.stdin_once, config.tty) = (self.flag(), self.flag(), self.flag());
        config.cdi_devices = self.seldom(|draw| draw.some(|draw| CdiDevice { name: draw.text() }));
        config.stop_signal = self.seldom(|draw| i32::try_from(draw.number()).unwrap_or(15));
        config.linux = self.seldom(|draw| {
            let security_context = draw.seldom(|draw| Some(draw.security(target)));
            Some(LinuxContainerConfig { resources: Some(draw.resources()), security_context })
        });
        request
    }

    fn mount(&mut self) -> Mount {
        Mount {
            container_path: match self.below(8) {
                0 => format!("/{}", self.below(100_000)),
                1 => self.text(),
                _ => self.one(&["/data", "/etc/hosts", "relative", "", "/a/../../b", "/proc", "/dev/shm"]).to_owned(),
            },
            host_path: self.path(),
            readonly: self.flag(),
            selinux_relabel: self.flag(),
            propagation: self.one(&CHOICES),
            recursive_read_only: self.seldom(Self::flag),
            image: self.seldom(|draw| Some(draw.image())),
            image_sub_path: self.seldom(Self::text),
            mount_options: self.seldom(Self::texts),
            ..Mount::default()
        }
    }

    fn device(&mut self) -> Device {
        Device {
            container_path: match self.below(6) {
                0 => format!("/dev/{}", self.below(100_000)),
                1 => self.text(),
                _ => self.one(&["/dev/x", "", "relative"]).to_owned(),
            },
            host_path: self.one(&["/dev/null", "/dev/full", "/proc/cpuinfo", "relative", ""]).to_owned(),
            permissions: if self.chance(5) { self.text() } else { self.one(&["rwm", "r", "", "x"]).to_owned() },
        }
    }

    #[allow(deprecated, reason = "old clients send them")]
    fn security(&mut self, target: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            capabilities: self.seldom(|draw| {
                let names = ["ALL", "CAP_NET_ADMIN", "sys_time", "x", ""].map(str::to_owned);
                let mut some = || draw.some(|draw| draw.one(&names));
                let (add_capabilities, drop_capabilities, add_ambient_capabilities) = (some(), some(), some());
                Some(Capability { add_capabilities, drop_capabilities, add_ambient_capabilities })
            }),
            privileged: self.seldom(Self::flag),
            namespace_options: self.seldom(|draw| Some(draw.namespaces(target))),
            selinux_options: self.seldom(|draw| Some(draw.selinux())),
            run_as_user: self.seldom(|draw| Some(Int64Value { value: draw.number() })),
            run_as_group: self.seldom(|draw| Some(Int64Value { value: draw.number() })),
            run_as_username: self.seldom(Self::text),
            supplemental_groups: self.seldom(|draw| draw.some(Self::number)),
            supplemental_groups_policy: self.seldom(|draw| draw.one(&CHOICES)),
            masked_paths: self.seldom(Self::texts),
            readonly_paths: self.seldom(Self::texts),
            seccomp: self.seldom(|draw| Some(draw.profile())),
            apparmor: self.seldom(|draw| Some(draw.profile())),
            apparmor_profile: self.seldom(Self::text),
            seccomp_profile_path: self.seldom(Self::text),
            ..LinuxContainerSecurityContext::default()
        }
    }

    pub fn pod_filter(&mut self, ids: &[String]) -> Option<PodSandboxFilter> {
        self.refill();
        let state = self.seldom(|draw| Some(PodSandboxStateValue { state: draw.one(&CHOICES) }));
        let filter = PodSandboxFilter { id: self.id(ids), state, label_selector: self.seldom(Self::pairs) };
        self.flag().then_some(filter)
    }

    pub fn container_filter(&mut self, ids: &[String], pods: &[String]) -> Option<ContainerFilter> {
        self.refill();
        let state = self.seldom(|draw| Some(ContainerStateValue { state: draw.one(&CHOICES) }));
        let (id, pod_sandbox_id) = (self.id(ids), self.id(pods));
        let filter = ContainerFilter { id, state, pod_sandbox_id, label_selector: self.seldom(Self::pairs) };
        self.flag().then_some(filter)
    }

    /// A command that ends by itself, or no command.
    pub fn command(&mut self) -> Vec<String> {
        let words: &[&str] = self.one(&[
            ["fake", "exit=0"].as_slice(),
            &["fake", "out=x", "exit=3", "after=20"],
            &["fake", "flood=1000000", "exit=0"],
            &[],
        ]);
        let mut command: Vec<String> = words.iter().map(ToString::to_string).collect();
        self.refill();
        if self.chance(10) && !command.is_empty() {
            command.extend(self.some(|draw| format!("out={}", draw.text())));
        }
        command
    }
}
