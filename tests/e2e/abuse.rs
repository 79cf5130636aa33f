//! What a tenant's pod or image must not do to the node. The attacks are numbered T1 to T12. During each one, the calls
//! of a victim, a pod of another tenant, must get their responses in time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

use crate::bed::{Bed, Target, image_spec};
use crate::harness::{Outcome, Test, rule};
use crate::hung::Hung;
use crate::images::layer_of;
use crate::registry::{Registry, Says};
use crate::restart::BUILTIN;
use crate::scope::{Pod, Scope, shell, sleeper};
use crate::streaming::How;

mod memory;

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        rule!(t1_a_volume_of_any_depth_is_removed).alone().within(120),
        rule!(t2_a_hundred_thousand_variables_are_no_burden).alone(),
        rule!(t2_t11_an_image_of_many_variables_and_volumes_is_no_burden).alone(),
        rule!(t3_a_record_that_no_message_would_carry_is_refused)
            .alone()
            .only_pontoon("the built-in makes the record, and `ctr containers list` fails then"),
        rule!(t4_a_pods_own_files_do_not_fill_the_nodes_memory).alone(),
        rule!(t5_half_open_connections_keep_no_exec_out).alone(),
        rule!(t6_hanging_commands_of_one_pod_hold_up_no_other_pods_probe).alone().within(120),
        rule!(t7_slow_networks_of_one_namespace_keep_no_other_waiting).alone().within(300),
        rule!(t8_a_log_directory_that_hangs_holds_up_its_own_pod_alone).alone().only_pontoon(BUILTIN),
        rule!(t9_what_pods_and_images_say_breaks_no_list)
            .alone()
            .only_pontoon("the built-in's lists are longer than a message then"),
    ];
    tests.extend(memory::tests());
    tests
}

/// The longest time that one call of the victim may take during the attack.
const LIMIT: Duration = Duration::from_secs(2);

/// A pod of another tenant. Its client runs a container, executes a probe in it and lists containers.
struct Victim {
    pod: Pod,
    container: String,
}

impl Victim {
    async fn start(scope: &Scope) -> anyhow::Result<Self> {
        let pod = scope.pod().await?;
        let container = pod.start(sleeper("victim")).await?;
        Ok(Self { pod, container })
    }

    /// Makes each of its calls once, one after the other. Returns the duration and the name of the slowest.
    async fn round(&self, bed: &Bed) -> anyhow::Result<(Duration, &'static str)> {
        let mut slowest = (Duration::ZERO, "");
        let mut timed = |name: &'static str, start: Instant| {
            let took = start.elapsed();
            slowest = slowest.max((took, name));
            ensure!(took < LIMIT, "the victim's {name} took {took:?}");
            Ok(())
        };
        let start = Instant::now();
        bed.runtime().version(v1::VersionRequest::default()).await?;
        timed("Version", start)?;
        let start = Instant::now();
        let probe = v1::ExecSyncRequest {
            container_id: self.container.clone(),
            cmd: vec!["true".to_owned()],
            timeout: LIMIT.as_secs().try_into()?,
        };
        bed.runtime().exec_sync(probe).await.context("the victim's probe")?;
        timed("probe", start)?;
        let start = Instant::now();
        bed.runtime().list_containers(v1::ListContainersRequest::default()).await?;
        timed("ListContainers", start)?;
        let start = Instant::now();
        let id = self.pod.create(shell("short", "true")).await?;
        bed.start(&id).await?;
        timed("container", start)?;
        bed.exited(&id).await?;
        bed.remove(&id).await?;
        Ok(slowest)
    }

    /// Repeats its calls while the attack runs, and prints the duration of the slowest.
    async fn beside<T>(&self, bed: &Bed, attack: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let alone = self.round(bed).await?;
        let mut attack = std::pin::pin!(attack);
        let (mut slowest, mut rounds) = ((Duration::ZERO, ""), 0);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut attack => break result?,
                round = self.round(bed) => slowest = slowest.max(round?),
            }
            rounds += 1;
        };
        let ((alone, _), (slowest, name)) = (alone, slowest);
        println!(
            "    the victim's slowest call: {alone:?} alone, {slowest:?} ({name}) in {rounds} rounds beside the attack"
        );
        Ok(result)
    }
}

/// Builds an image that contains only busybox, with the given config and annotations, and serves it from the registry.
/// To be called before the attack: it computes for up to a second, in which the victim's calls could not go on either.
async fn served_image(scope: &Scope, registry: &Registry, name: &str, says: &Says) -> anyhow::Result<String> {
    let root = scope.volume(name)?;
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy("/bin/busybox", root.join("bin/sh"))?;
    let (layer, diff_id) = layer_of(scope, &root, &["--owner=0", "--group=0"]).await?;
    registry.image_that_says(name, &layer, &diff_id, says)
}

/// Builds an image as [`served_image`] does, and pulls it.
async fn image_that_says(scope: &Scope, registry: &Registry, name: &str, says: &Says) -> anyhow::Result<String> {
    let name = served_image(scope, registry, name, says).await?;
    scope.bed.pull(&name).await?;
    Ok(name)
}

/// Nested directories in a VOLUME, far deeper than a path can name or recursive calls fit on a stack.
async fn t1_a_volume_of_any_depth_is_removed(scope: Arc<Scope>) -> Outcome {
    // Each round moves the existing tree below 1,900 new directories.
    const SCRIPT: &str = "cd /v && p=$(printf 'd/%.0s' $(seq 1900)) && mkdir a && \
        for i in $(seq 10); do mkdir -p b/$p && mv a b/$p && mv b a || exit 1; done; echo deep";
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let says = Says { config: json!({ "Volumes": { "/v": {} } }), ..Says::default() };
    let image = image_that_says(&scope, &registry, "deep", &says).await?;
    let pod = scope.pod().await?;
    let mut container = shell("deep", SCRIPT);
    container.image = Some(image_spec(&image));
    container.command = ["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec();
    let log = pod.log(&container);
    let id = pod.start(container).await?;
    scope.bed.exited(&id).await?;
    let said = crate::logs::text(&log)?;
    ensure!(said.ends_with("deep\n"), "{said}");
    let daemon = scope.bed.pid(scope.bed.server())?;
    victim.beside(&scope.bed, scope.bed.remove(&id)).await?;
    ensure!(scope.bed.pid(scope.bed.server())? == daemon, "the daemon is another one");
    let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
    let gone = scope.bed.runtime().container_status(request).await;
    let code = gone.map_or_else(|status| status.code(), |_| Code::Ok);
    ensure!(code == Code::NotFound, "{code:?} of a removed container");
    Ok(())
}

fn variables(count: usize) -> Vec<v1::KeyValue> {
    (0..count).map(|number| v1::KeyValue { key: format!("V{number}"), value: b"x".to_vec() }).collect()
}

async fn t2_a_hundred_thousand_variables_are_no_burden(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let attack = async {
        let start = Instant::now();
        let create = |name: &str| {
            let mut container = sleeper(name);
            container.envs = variables(100_000);
            pod.create(container)
        };
        let (one, other) = tokio::join!(create("one"), create("other"));
        let (one, other) = (one?, other?);
        let took = start.elapsed();
        println!("    two containers of 100,000 variables were created in {took:?}");
        ensure!(took < Duration::from_secs(4), "{took:?}");
        for id in [one, other] {
            scope.bed.remove(&id).await?;
        }
        Ok(())
    };
    victim.beside(&scope.bed, attack).await
}

async fn t2_t11_an_image_of_many_variables_and_volumes_is_no_burden(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let env: Vec<String> = (0..100_000).map(|number| format!("V{number}=x")).collect();
    let volumes: serde_json::Map<_, _> = (0..900).map(|number| (format!("/v{number}"), json!({}))).collect();
    let says = Says { config: json!({ "Env": env, "Volumes": volumes }), ..Says::default() };
    let image = image_that_says(&scope, &registry, "many", &says).await?;
    let volumes: serde_json::Map<_, _> = (0..100_000).map(|number| (format!("/v{number}"), json!({}))).collect();
    let says = Says { config: json!({ "Volumes": volumes }), ..Says::default() };
    let too_many = image_that_says(&scope, &registry, "too-many", &says).await?;
    let pod = scope.pod().await?;
    let of = |name: &str, image: &str| {
        let mut container = sleeper(name);
        container.image = Some(image_spec(image));
        container
    };
    let attack = async {
        let start = Instant::now();
        let id = pod.create(of("many", &image)).await?;
        let took = start.elapsed();
        println!("    a container of 900 VOLUMEs and 100,000 variables was created in {took:?}");
        ensure!(took < Duration::from_secs(4), "{took:?}");
        scope.bed.remove(&id).await?;
        match pod.create(of("too-many", &too_many)).await {
            Ok(id) if scope.bed.target == Target::Builtin => scope.bed.remove(&id).await,
            Ok(_) => bail!("100,000 VOLUMEs are taken"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("100000 VOLUMEs, more than 1000"), "{said}");
                Ok(())
            }
        }
    };
    victim.beside(&scope.bed, attack).await
}

async fn t3_a_record_that_no_message_would_carry_is_refused(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let attack = async {
        let mut container = sleeper("large");
        container.envs = vec![v1::KeyValue { key: "A".to_owned(), value: vec![1; 2_400_000] }];
        let Err(refused) = pod.create(container).await else { bail!("its record is made") };
        let said = format!("{refused:#}");
        ensure!(said.contains("config.envs"), "{said}");
        let mut large = scope.pod_config();
        large.annotations.insert("a".to_owned(), "x".repeat(15 << 20));
        let Err(refused) = scope.run(large).await else { bail!("its record is made") };
        let said = format!("{refused:#}");
        ensure!(said.contains("config.annotations"), "{said}");
        Ok(())
    };
    victim.beside(&scope.bed, attack).await?;
    // containerd can still list all its records.
    scope.bed.ctr(&["containers", "list"]).await?;
    Ok(())
}

/// Writes to /etc/hostname and the pod's other files until that fails.
async fn t4_a_pods_own_files_do_not_fill_the_nodes_memory(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let script = "for f in hostname hosts resolv.conf; do dd if=/dev/zero of=/etc/$f bs=1M count=64 2>&1; done; \
        wc -c /etc/hostname /etc/hosts /etc/resolv.conf | tail -n 1";
    let pod = scope.pod().await?;
    let written = victim.beside(&scope.bed, pod.says(shell("filler", script))).await?;
    let total: Option<u64> =
        written.trim_end().lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok());
    println!("    a pod's files grew to {total:?} bytes");
    ensure!(scope.bed.target == Target::Builtin || total.is_some_and(|total| total < 4 << 20), "{written}");
    Ok(())
}

/// A user of the node opens connections to the streaming port and sends nothing.
async fn t5_half_open_connections_keep_no_exec_out(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let request = v1::ExecRequest {
        container_id: victim.container.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let url = scope.bed.runtime().exec(request).await.context("Exec")?.into_inner().url;
    let address = url.split('/').nth(2).context("no address in the URL")?;
    let mut strangers = Vec::new();
    for _ in 0..600 {
        strangers.push(tokio::net::TcpStream::connect(address).await?);
    }
    let start = Instant::now();
    scope.bed.crictl(&["exec", &victim.container, "true"]).await?;
    let took = start.elapsed();
    println!("    crictl exec took {took:?} beside {} half-open connections", strangers.len());
    ensure!(took < LIMIT, "{took:?}");
    Ok(())
}

/// Three images whose user has 7 MiB, and containers with an annotation of 1.4 MB, as a long preStop hook produces it.
async fn t9_what_pods_and_images_say_breaks_no_list(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let mut images = Vec::new();
    for number in 0..3 {
        let user = format!("{number}{}", "u".repeat(7 << 20));
        let says = Says { config: json!({ "User": user }), ..Says::default() };
        images.push(served_image(&scope, &registry, &format!("user-{number}"), &says).await?);
    }
    let attack = async {
        for image in &images {
            scope.bed.pull(image).await?;
        }
        let pod = scope.pod().await?;
        for number in 0..12 {
            let mut container = sleeper(&format!("large-{number}"));
            container.annotations.insert("io.kubernetes.container.preStopHandler".to_owned(), "x".repeat(1_400_000));
            let Err(refused) = pod.create(container).await else { bail!("container {number} is made") };
            let said = format!("{refused:#}");
            ensure!(said.contains("config.annotations: is most of"), "{said}");
        }
        let images = scope.bed.images().list_images(v1::ListImagesRequest::default()).await.context("ListImages")?;
        let names: Vec<_> = images.into_inner().images.into_iter().map(|image| image.username).collect();
        let shown = names.iter().filter(|name| name.ends_with("uuuu")).count();
        ensure!(shown == 3 && names.iter().all(|name| name.len() <= 256), "{shown} users are shown");
        scope.bed.runtime().list_containers(v1::ListContainersRequest::default()).await.context("ListContainers")?;
        Ok(())
    };
    victim.beside(&scope.bed, attack).await
}

/// Probes that hang, and exec sessions of a user with exec rights: as many as one pod can have, all on kubelet's
/// connection.
async fn t6_hanging_commands_of_one_pod_hold_up_no_other_pods_probe(scope: Arc<Scope>) -> Outcome {
    const PROBES: usize = 300;
    const SESSIONS: usize = 24;
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(pod.start(sleeper(&format!("c{number}"))).await?);
    }
    let attack = async {
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            let id = &ids[number % ids.len()];
            sessions.push(scope.bed.exec_session("spdy", id, &["sleep", "1000"], How::default()).await?);
        }
        let mut probes = JoinSet::new();
        for number in 0..PROBES {
            let (mut runtime, container_id) = (scope.bed.runtime(), ids[number % ids.len()].clone());
            let cmd = ["sleep", "1000"].map(str::to_owned).to_vec();
            probes
                .spawn(async move { runtime.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: 20 }).await });
        }
        let (mut timed_out, start) = (0, Instant::now());
        while let Some(ended) = probes.join_next().await {
            let code = ended?.map_or_else(|status| status.code(), |_| Code::Ok);
            ensure!(code == Code::DeadlineExceeded, "a probe that hangs ends with {code:?}");
            timed_out += 1;
        }
        println!("    {timed_out} probes were over after {:?}, beside {} sessions", start.elapsed(), sessions.len());
        Ok(())
    };
    victim.beside(&scope.bed, attack).await
}

/// How long a pod takes from RunPodSandbox to the end of RemovePodSandbox.
async fn a_pods_life(scope: &Scope) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let pod = scope.pod().await?;
    pod.stop().await?;
    pod.remove().await?;
    Ok(start.elapsed())
}

/// As many pods of another namespace as there are slots for CNI, which together map 400 ports of the node. The portmap
/// plugin calls iptables for each port, which takes longer the more rules exist. Pontoon cannot change that.
async fn t7_slow_networks_of_one_namespace_keep_no_other_waiting(scope: Arc<Scope>) -> Outcome {
    const BESIDE: Duration = Duration::from_secs(10);
    let alone = a_pods_life(&scope).await?;
    let mut slow = JoinSet::new();
    for number in 0..16 {
        let mut config = scope.pod_config();
        config.metadata.get_or_insert_default().namespace = "slow".to_owned();
        let ports = 20_000 + number * 25..20_025 + number * 25;
        config.port_mappings =
            ports.map(|host_port| v1::PortMapping { host_port, container_port: 80, ..Default::default() }).collect();
        let scope = scope.clone();
        slow.spawn(async move { scope.run(config).await?.stop().await });
    }
    let over = AtomicBool::new(false);
    let attack = async {
        while let Some(ended) = slow.join_next().await {
            ended??;
        }
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    // Each round runs to its end: a RunPodSandbox whose caller is gone would be rolled back only after minutes.
    let beside = async {
        let (mut slowest, mut rounds) = (Duration::ZERO, 0);
        while !over.load(Ordering::Relaxed) {
            slowest = slowest.max(a_pods_life(&scope).await?);
            rounds += 1;
        }
        Ok((slowest, rounds))
    };
    let ((), (slowest, rounds)) = tokio::try_join!(attack, beside)?;
    ensure!(slowest < BESIDE, "another namespace's pod took {slowest:?}, {alone:?} alone");
    println!("    a pod's life: {alone:?} alone, at most {slowest:?} in {rounds} rounds beside 16 slow ones");
    Ok(())
}

/// First the hanging file system is behind a symlink, which a tenant with /var/log/pods as a volume can create. Then it
/// is mounted on the log directory itself.
async fn t8_a_log_directory_that_hangs_holds_up_its_own_pod_alone(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    pod.start(sleeper("stuck")).await?;
    let directory = Path::new(&pod.config.log_directory);
    let (kept, nfs) = (scope.dir().join("kept"), scope.volume("nfs")?);
    std::fs::rename(directory, &kept)?;
    std::os::unix::fs::symlink(nfs.join("share"), directory)?;
    {
        let _hung = Hung::mount(&nfs)?;
        restarted(&scope.bed).await?;
        let attack = async {
            let mut another = sleeper("another");
            another.log_path = "another.log".to_owned();
            let Err(refused) = pod.start(another).await else { bail!("its log is behind a symlink") };
            let said = format!("{refused:#}");
            ensure!(said.contains("log_directory") && said.contains("is a symlink"), "{said}");
            Ok(())
        };
        victim.beside(&scope.bed, attack).await?;
    }
    std::fs::remove_file(directory)?;
    std::fs::rename(&kept, directory)?;
    let _hung = Hung::mount(directory)?;
    restarted(&scope.bed).await?;
    let a_while = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    victim.beside(&scope.bed, a_while).await
}

/// Restarts the daemon. The first list must be complete within [`LIMIT`].
async fn restarted(bed: &Bed) -> anyhow::Result<()> {
    bed.daemon("daemon", "stop").await?;
    let (took, _) = bed.start_and_list().await?;
    println!("    the first list came {took:?} after the start");
    ensure!(took < LIMIT, "{took:?}");
    Ok(())
}
