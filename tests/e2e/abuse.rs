//! What a tenant's pod or image must not do to the node. The attacks are numbered T1 to T12. During each one, the calls
//! of a victim, a pod of another tenant, must get their responses in time. After it the daemon must start again in time,
//! and nothing may be left.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use pontoon::api::v1;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

use self::times::{ALLOWED, Allowed, LIMIT};
use self::victim::Victim;
use crate::bed::{Bed, Target, image_spec};
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::images::layer_of;
use crate::registry::{Registry, Says};
use crate::scope::{Pod, Scope, shell, sleeper};
use crate::streaming::How;

mod memory;
mod restarts;
mod times;
mod victim;

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        rule!(t1_a_volume_of_any_depth_is_removed).alone().within(120),
        rule!(t2_a_hundred_thousand_variables_are_no_burden).alone(),
        rule!(t2_t11_an_image_of_many_variables_and_volumes_is_no_burden).alone().within(120),
        rule!(t3_a_record_that_no_message_would_carry_is_refused)
            .alone()
            .only_pontoon("the built-in makes the record, and `ctr containers list` fails then"),
        rule!(t4_a_pods_own_files_do_not_fill_the_nodes_memory).alone(),
        rule!(t5_half_open_connections_keep_no_exec_out).alone(),
        rule!(t6_hanging_commands_of_one_pod_hold_up_no_other_pods_probe).alone().within(120),
        rule!(t7_slow_networks_of_one_namespace_keep_no_other_waiting).alone().within(300),
        rule!(t9_what_pods_and_images_say_breaks_no_list)
            .alone()
            .only_pontoon("the built-in's lists are longer than a message then"),
    ];
    tests.extend(memory::tests());
    tests.extend(restarts::tests());
    tests
}

/// The longest of an attack's repetitions.
fn longest(repetitions: Vec<Duration>) -> Duration {
    repetitions.into_iter().max().unwrap_or_default()
}

/// Removes the containers that an earlier repetition of the attack has left in a pod.
async fn emptied(bed: &Bed, pod: &Pod) -> Outcome {
    let filter = Some(v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() });
    let listed = bed.runtime().list_containers(v1::ListContainersRequest { filter }).await.context("ListContainers")?;
    for container in listed.into_inner().decoded()? {
        bed.remove(&container.id).await?;
    }
    Ok(())
}

/// Builds an image that contains only busybox, with the given config and annotations, and serves it from the registry.
/// To be called before the attack: it computes for up to a second, and the victim's calls would share the CPUs with it.
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
    const AT_ONCE: usize = 2;
    let victim = Victim::start(&scope).await?;
    let registry = Registry::start(&scope.bed).await?;
    let says = Says { config: json!({ "Volumes": { "/v": {} } }), ..Says::default() };
    let image = image_that_says(&scope, &registry, "deep", &says).await?;
    let pod = scope.pod().await?;
    let daemon = scope.bed.pid(scope.bed.server())?;
    let attack = || async {
        let ids = try_join_all((0..AT_ONCE).map(|number| deep(&scope, &pod, &image, number))).await?;
        let start = Instant::now();
        for id in ids {
            scope.bed.remove(&id).await?;
            let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
            let gone = scope.bed.runtime().container_status(request).await;
            let code = gone.map_or_else(|status| status.code(), |_| Code::Ok);
            ensure!(code == Code::NotFound, "{code:?} of a removed container");
        }
        Ok(start.elapsed())
    };
    let took = longest(victim.beside(attack).await?);
    println!("    {AT_ONCE} such volumes were removed in at most {took:?}");
    ensure!(scope.bed.pid(scope.bed.server())? == daemon, "the daemon is another one");
    victim.afterwards().await
}

/// Runs a container that makes such directories in its VOLUME. It has ended when this returns.
async fn deep(scope: &Scope, pod: &Pod, image: &str, number: usize) -> anyhow::Result<String> {
    // Each round moves the existing tree below 1,900 new directories.
    const SCRIPT: &str = "cd /v && p=$(printf 'd/%.0s' $(seq 1900)) && mkdir a && \
        for i in $(seq 10); do mkdir -p b/$p && mv a b/$p && mv b a || exit 1; done; echo deep";
    let mut container = shell(&format!("deep-{number}"), SCRIPT);
    container.image = Some(image_spec(image));
    container.command = ["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec();
    let log = pod.log(&container);
    let id = pod.start(container).await?;
    scope.bed.exited(&id).await?;
    let said = crate::logs::text(&log)?;
    ensure!(said.ends_with("deep\n"), "{said}");
    Ok(id)
}

fn variables(count: usize) -> Vec<v1::KeyValue> {
    (0..count).map(|number| v1::KeyValue { key: format!("V{number}"), value: b"x".to_vec() }).collect()
}

async fn t2_a_hundred_thousand_variables_are_no_burden(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let envs = variables(100_000);
    let attack = || async {
        emptied(&scope.bed, &pod).await?;
        let start = Instant::now();
        let create = |name: &str| {
            let mut container = sleeper(name);
            container.envs.clone_from(&envs);
            pod.create(container)
        };
        let (one, other) = tokio::join!(create("one"), create("other"));
        one?;
        other?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(4) * *SLOWNESS, "{took:?}");
        Ok(took)
    };
    let took = longest(victim.beside(attack).await?);
    println!("    two containers of 100,000 variables were created in at most {took:?}");
    victim.afterwards().await
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
    let attack = || async {
        emptied(&scope.bed, &pod).await?;
        let start = Instant::now();
        pod.create(of("many", &image)).await?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(4) * *SLOWNESS, "{took:?}");
        match pod.create(of("too-many", &too_many)).await {
            Ok(_) if scope.bed.target == Target::Builtin => {}
            Ok(_) => bail!("100,000 VOLUMEs are taken"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("100000 VOLUMEs, more than 1000"), "{said}");
            }
        }
        Ok(took)
    };
    let took = longest(victim.beside(attack).await?);
    println!("    a container of 900 VOLUMEs and 100,000 variables was created in at most {took:?}");
    victim.afterwards().await
}

async fn t3_a_record_that_no_message_would_carry_is_refused(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let attack = || async {
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
    victim.beside(attack).await?;
    // containerd can still list all its records.
    scope.bed.ctr(&["containers", "list"]).await?;
    victim.afterwards().await
}

/// Writes to /etc/hostname and the pod's other files until that fails.
async fn t4_a_pods_own_files_do_not_fill_the_nodes_memory(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let script = "for f in hostname hosts resolv.conf; do dd if=/dev/zero of=/etc/$f bs=1M count=64 2>&1; done; \
        wc -c /etc/hostname /etc/hosts /etc/resolv.conf | tail -n 1";
    let pod = scope.pod().await?;
    let attack = || async {
        emptied(&scope.bed, &pod).await?;
        let written = pod.says(shell("filler", script)).await?;
        let total: Option<u64> =
            written.trim_end().lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok());
        ensure!(scope.bed.target == Target::Builtin || total.is_some_and(|total| total < 4 << 20), "{written}");
        Ok(total)
    };
    let most = victim.beside(attack).await?.into_iter().max().flatten();
    println!("    a pod's files grew to {most:?} bytes");
    victim.afterwards().await
}

/// How many connections a user of the node keeps half open.
const STRANGERS: usize = 600;

/// Opens connections and sends nothing, and opens another one for each that the server closes. Tells how many there are.
async fn half_open(address: String, standing: watch::Sender<usize>) -> anyhow::Result<()> {
    let mut streams: Vec<TcpStream> = Vec::new();
    loop {
        // As long as the server has not closed it, there is nothing to read.
        streams.retain(|stream| stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        while streams.len() < STRANGERS {
            streams.push(TcpStream::connect(&address).await?);
        }
        standing.send_replace(streams.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A user of the node opens connections to the streaming port and sends nothing. The victim has sessions, too.
async fn t5_half_open_connections_keep_no_exec_out(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let url = scope.bed.exec_url(&victim.container, &["true"], How::default()).await?;
    let address = url.split('/').nth(2).context("no address in the URL")?;
    let (opened, mut standing) = watch::channel(0);
    let mut strangers = JoinSet::new();
    strangers.spawn(half_open(address.to_owned(), opened));
    standing.wait_for(|streams| *streams == STRANGERS).await.context("the streaming port refuses a connection")?;
    let attack = || async {
        ensure!(standing.has_changed().is_ok(), "the streaming port refuses a connection");
        let start = Instant::now();
        scope.bed.crictl(&["exec", &victim.container, "true"]).await?;
        let took = start.elapsed();
        ensure!(took < LIMIT * *SLOWNESS, "{took:?}");
        Ok(took)
    };
    let took = longest(victim.beside(attack).await?);
    println!("    crictl exec took at most {took:?} beside {STRANGERS} half-open connections");
    drop(strangers);
    victim.afterwards().await
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
    let pod = scope.pod().await?;
    let attack = || async {
        for image in &images {
            scope.bed.pull(image).await?;
        }
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
    victim.beside(attack).await?;
    victim.afterwards().await
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
    let attack = || async {
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
        let start = Instant::now();
        while let Some(ended) = probes.join_next().await {
            let code = ended?.map_or_else(|status| status.code(), |_| Code::Ok);
            ensure!(code == Code::DeadlineExceeded, "a probe that hangs ends with {code:?}");
        }
        Ok(start.elapsed())
    };
    let took = longest(victim.beside(attack).await?);
    println!("    {PROBES} probes were over after at most {took:?}, beside {SESSIONS} sessions");
    victim.afterwards().await
}

/// As many pods of another namespace as there are slots for CNI, which together map 400 ports of the node. The portmap
/// plugin calls iptables for each port, which takes longer the more rules exist. Pontoon cannot change that, so the
/// victim's pods have more time, and their factor does not count.
async fn t7_slow_networks_of_one_namespace_keep_no_other_waiting(scope: Arc<Scope>) -> Outcome {
    const PODS: i32 = 16;
    let [_, exec, lists] = ALLOWED;
    let pod_start = Allowed { limit: Duration::from_secs(10), more: None };
    let victim = Victim::start_with(&scope, [pod_start, exec, lists]).await?;
    let attack = || async {
        let start = Instant::now();
        let mut slow = JoinSet::new();
        for number in 0..PODS {
            let mut config = scope.pod_config();
            config.metadata.get_or_insert_default().namespace = "slow".to_owned();
            let ports = 20_000 + number * 25..20_025 + number * 25;
            config.port_mappings = ports
                .map(|host_port| v1::PortMapping { host_port, container_port: 80, ..Default::default() })
                .collect();
            let scope = scope.clone();
            slow.spawn(async move { scope.run(config).await?.stop().await });
        }
        while let Some(ended) = slow.join_next().await {
            ended??;
        }
        Ok(start.elapsed())
    };
    let took = longest(victim.beside(attack).await?);
    println!("    {PODS} pods with 25 published ports each ran and ended within {took:?}");
    victim.afterwards().await
}
