//! security.md X10: forty requests of any content and size, to all RPCs, in any order, some of them in parallel. The
//! server must not panic, must return a specific status code for each bad request, and must stay within a memory limit.
//! Everything that it lists afterwards must be removable without a trace.
//!
//! Each run draws the same requests, as many as the time allows. `PONTOON_SECONDS=N` draws different ones for N
//! seconds; `PONTOON_SEED=N` repeats those of a failure (requests sent in parallel may arrive in another order).

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::draw::Draw;
use crate::support::server::Node;

/// Requests per case.
const REQUESTS: usize = 40;
/// How long new cases are started.
const SECONDS: u64 = 20;

/// How many bytes of a request are shown.
const SHOWN: usize = 3000;
/// The limit of the server's address space. Stacks of threads and the program itself take 256 MiB of it.
const MEMORY: u64 = 1 << 30;

/// What a request has created.
enum Made {
    Sandbox(String, Box<RunPodSandboxRequest>),
    Container(String),
    Nothing,
}

/// The text of a request that is not sent yet, and the call.
type Ask = (String, BoxFuture<'static, Result<Made, Status>>);

/// Ids of objects that were created. They stay in the lists when the object is removed.
#[derive(Default)]
struct Known {
    sandboxes: Vec<String>,
    pods: Vec<RunPodSandboxRequest>,
    containers: Vec<String>,
}

impl Known {
    fn note(&mut self, made: Made) {
        match made {
            Made::Sandbox(id, pod) if !self.sandboxes.contains(&id) => {
                self.sandboxes.push(id);
                self.pods.push(*pod);
            }
            Made::Container(id) if !self.containers.contains(&id) => self.containers.push(id),
            Made::Sandbox(..) | Made::Container(_) | Made::Nothing => {}
        }
    }
}

/// The beginning of a request's text. Formatting all of a large request would take longer than sending it.
fn shown(method: &str, request: &impl Debug) -> String {
    struct Beginning(String);
    impl Write for Beginning {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = SHOWN.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut beginning = Beginning(format!("{method} "));
    let _ = write!(beginning, "{request:?}");
    beginning.0
}

/// A call whose reply is ignored. With `stream`, all replies are read.
macro_rules! ask {
    ($client:expr, $method:ident, $request:expr) => {{
        let (request, mut client) = ($request, $client);
        let shown = shown(stringify!($method), &request);
        (shown, async move { client.$method(request).await.map(|_| Made::Nothing) }.boxed())
    }};
    (stream $client:expr, $method:ident, $request:expr) => {{
        let (request, mut client) = ($request, $client);
        let shown = shown(stringify!($method), &request);
        let read = async move {
            let mut answers = client.$method(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(Made::Nothing)
        };
        (shown, read.boxed())
    }};
}

/// The number of kinds of requests in [`ask`].
const KINDS: usize = 48;

fn ask(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    match draw.below(KINDS) {
        0..5 => run_pod(node, draw),
        5..11 => create(node, draw, known),
        11..16 => ask!(node.cri(), start_container, StartContainerRequest { container_id: draw.id(&known.containers) }),
        16..24 => change(node, draw, known),
        24..32 => look(node, draw, known),
        32..40 => list(node, draw, known),
        _ => other(node, draw, known),
    }
}

fn run_pod(node: &Node, draw: &mut Draw) -> Ask {
    let (request, mut client) = (draw.pod(), node.cri());
    let shown = shown("run_pod_sandbox", &request);
    let run = async move {
        let reply = client.run_pod_sandbox(request.clone()).await?.into_inner();
        Ok(Made::Sandbox(reply.pod_sandbox_id, Box::new(request)))
    };
    (shown, run.boxed())
}

fn create(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    let target = draw.id(&known.containers);
    let strange = draw.pod();
    // The most recent sandboxes are likely to still exist.
    let at = known.pods.len().saturating_sub(1 + draw.below(3));
    let sandbox = if draw.chance(90) { known.sandboxes.get(at).cloned() } else { None };
    let sandbox = sandbox.unwrap_or_else(|| draw.id(&known.sandboxes));
    let request = draw.container((&sandbox, known.pods.get(at).unwrap_or(&strange)), &target);
    let (shown, mut client) = (shown("create_container", &request), node.cri());
    let create = async move { Ok(Made::Container(client.create_container(request).await?.into_inner().container_id)) };
    (shown, create.boxed())
}

fn change(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    let (cri, container_id, pod_sandbox_id) = (node.cri(), draw.id(&known.containers), draw.id(&known.sandboxes));
    match draw.below(10) {
        0 | 1 => ask!(cri, stop_container, StopContainerRequest { container_id, timeout: draw.number() }),
        2 => ask!(cri, remove_container, RemoveContainerRequest { container_id }),
        3 => ask!(cri, stop_pod_sandbox, StopPodSandboxRequest { pod_sandbox_id }),
        4 => ask!(cri, remove_pod_sandbox, RemovePodSandboxRequest { pod_sandbox_id }),
        5 | 6 => {
            let linux = draw.chance(90).then(|| draw.resources());
            let request = UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
            ask!(cri, update_container_resources, request)
        }
        7 | 8 => {
            let (overhead, resources) = (Some(draw.resources()), Some(draw.resources()));
            let request = UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources };
            ask!(cri, update_pod_sandbox_resources, request)
        }
        _ => ask!(cri, reopen_container_log, ReopenContainerLogRequest { container_id }),
    }
}

fn look(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    let (cri, container_id, pod_sandbox_id) = (node.cri(), draw.id(&known.containers), draw.id(&known.sandboxes));
    match draw.below(10) {
        0 => ask!(cri, pod_sandbox_status, PodSandboxStatusRequest { pod_sandbox_id, verbose: draw.flag() }),
        1 => ask!(cri, container_status, ContainerStatusRequest { container_id, verbose: draw.flag() }),
        2 => ask!(cri, container_stats, ContainerStatsRequest { container_id }),
        3 => ask!(cri, pod_sandbox_stats, PodSandboxStatsRequest { pod_sandbox_id }),
        4 | 8 | 9 => {
            // Commands without a timeout are drawn so that they end by themselves.
            let timeout = draw.one(&[0, 1, 5, i64::MAX]);
            ask!(cri, exec_sync, ExecSyncRequest { container_id, cmd: draw.command(), timeout })
        }
        5 => {
            let [tty, stdin, stdout, stderr] = [(); 4].map(|()| draw.flag());
            ask!(cri, exec, ExecRequest { container_id, cmd: draw.command(), tty, stdin, stdout, stderr })
        }
        6 => {
            let [tty, stdin, stdout, stderr] = [(); 4].map(|()| draw.flag());
            ask!(cri, attach, AttachRequest { container_id, stdin, tty, stdout, stderr })
        }
        _ => {
            let port = vec![i32::try_from(draw.number()).unwrap_or(80)];
            ask!(cri, port_forward, PortForwardRequest { pod_sandbox_id, port })
        }
    }
}

fn list(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    let cri = node.cri();
    let pods = draw.pod_filter(&known.sandboxes);
    let containers = draw.container_filter(&known.containers, &known.sandboxes);
    let label_selector = containers.clone().map(|filter| filter.label_selector).unwrap_or_default();
    let of_pods = pods.clone().map(|pods| PodSandboxStatsFilter { id: pods.id, label_selector: pods.label_selector });
    let of_containers = containers.clone().map(|one| {
        let (id, pod_sandbox_id) = (one.id, one.pod_sandbox_id);
        ContainerStatsFilter { id, pod_sandbox_id, label_selector }
    });
    match draw.below(10) {
        0 => ask!(cri, list_pod_sandbox, ListPodSandboxRequest { filter: pods }),
        1 => ask!(stream cri, stream_pod_sandboxes, StreamPodSandboxesRequest { filter: pods }),
        2 => ask!(cri, list_containers, ListContainersRequest { filter: containers }),
        3 => ask!(stream cri, stream_containers, StreamContainersRequest { filter: containers }),
        4 => ask!(cri, list_container_stats, ListContainerStatsRequest { filter: of_containers }),
        5 => ask!(stream cri, stream_container_stats, StreamContainerStatsRequest { filter: of_containers }),
        6 => ask!(cri, list_pod_sandbox_stats, ListPodSandboxStatsRequest { filter: of_pods }),
        7 => ask!(stream cri, stream_pod_sandbox_stats, StreamPodSandboxStatsRequest { filter: of_pods }),
        8 => ask!(cri, list_pod_sandbox_metrics, ListPodSandboxMetricsRequest {}),
        _ => ask!(stream cri, stream_pod_sandbox_metrics, StreamPodSandboxMetricsRequest {}),
    }
}

fn other(node: &Node, draw: &mut Draw, known: &Known) -> Ask {
    let (cri, images) = (node.cri(), node.images());
    let filter = draw.flag().then(|| ImageFilter { image: Some(draw.image()) });
    match draw.below(14) {
        0 => ask!(cri, version, VersionRequest { version: draw.text() }),
        1 => ask!(cri, status, StatusRequest { verbose: draw.flag() }),
        2 => ask!(cri, runtime_config, RuntimeConfigRequest {}),
        3 => {
            let network_config = Some(NetworkConfig { pod_cidr: draw.text() });
            let runtime_config = draw.chance(80).then_some(RuntimeConfig { network_config });
            ask!(cri, update_runtime_config, UpdateRuntimeConfigRequest { runtime_config })
        }
        4 => ask!(cri, list_metric_descriptors, ListMetricDescriptorsRequest {}),
        5 => {
            let (location, container_id) = (draw.text(), draw.id(&known.containers));
            let request = CheckpointContainerRequest { container_id, location, timeout: draw.number() };
            ask!(cri, checkpoint_container, request)
        }
        6 => ask!(
            cri,
            checkpoint_pod,
            CheckpointPodRequest { pod_sandbox_id: draw.id(&known.sandboxes), ..Default::default() }
        ),
        7 => ask!(cri, restore_pod, RestorePodRequest { checkpoint_path: draw.text(), ..Default::default() }),
        // The stream is not read, because it does not end.
        8 => ask!(cri, get_container_events, GetEventsRequest {}),
        9 => ask!(images, list_images, ListImagesRequest { filter }),
        10 => ask!(stream images, stream_images, StreamImagesRequest { filter }),
        11 => ask!(images, image_status, ImageStatusRequest { image: Some(draw.image()), verbose: draw.flag() }),
        12 => ask!(images, image_fs_info, ImageFsInfoRequest {}),
        // Only names that are no valid reference: a pull would need a registry, and the only image must stay.
        _ => {
            let image = Some(ImageSpec { image: draw.text(), ..ImageSpec::default() });
            if draw.flag() {
                ask!(images, remove_image, RemoveImageRequest { image })
            } else {
                let image =
                    Some(ImageSpec { image: format!("reg.example/../{}", draw.text()), ..ImageSpec::default() });
                ask!(images, pull_image, PullImageRequest { image, ..PullImageRequest::default() })
            }
        }
    }
}

/// An unspecific status code is a bug of ours, because only the request was wrong. ResourceExhausted is proper when
/// there is no slot for a command or stream; otherwise only when the reply is too large for the client, as for one
/// large object.
fn is_proper(method: &str, code: Code) -> bool {
    match code {
        Code::ResourceExhausted => {
            let too_many = ["exec", "exec_sync", "attach", "port_forward"];
            let too_long = ["container_status", "pod_sandbox_status"];
            too_many.contains(&method) || too_long.contains(&method)
        }
        other => {
            !matches!(other, Code::Unknown | Code::Internal | Code::DataLoss | Code::Cancelled | Code::Unavailable)
        }
    }
}

/// How often each method returned each status code.
type Tally = BTreeMap<String, usize>;

/// Runs one case, and returns what was wrong.
async fn case(node: &Node, seed: u64, tally: &mut Tally) -> Vec<String> {
    let (mut draw, mut known, mut wrong) = (Draw::new(seed, &node.logs()), Known::default(), Vec::new());
    let (sandbox, container) = node.run_with_container("first", &["fake"]).await;
    known.note(Made::Sandbox(sandbox, Box::new(node.pod("first"))));
    known.note(Made::Container(container));
    let mut sent = 0;
    while sent < REQUESTS {
        let at_once = if draw.chance(25) { 1 + draw.below(3) } else { 1 };
        let (shown, asks): (Vec<_>, Vec<_>) = (0..at_once).map(|_| ask(node, &mut draw, &known)).unzip();
        sent += at_once;
        for (shown, answer) in shown.into_iter().zip(join_all(asks).await) {
            let method = shown.split(' ').next().unwrap_or_default();
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            *tally.entry(format!("{method} {code:?}")).or_default() += 1;
            match answer {
                Ok(made) => known.note(made),
                Err(status) if is_proper(method, status.code()) => {}
                Err(status) => wrong.push(format!("{status}\n  to {shown}")),
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn x10_any_requests_in_any_order_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("PONTOON_SECONDS");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let drawn = if seconds.is_some() { u64::from(now.subsec_nanos()) << 10 } else { 1 };
    let first = number("PONTOON_SEED").unwrap_or(drawn);
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let (node, mut tally) = (Node::start().await, Tally::new());
    node.limit_memory(MEMORY);
    for seed in first.. {
        let wrong = case(&node, seed, &mut tally).await;
        assert!(wrong.is_empty(), "PONTOON_SEED={seed}: answers that say nothing:\n{}", wrong.join("\n"));
        let panicked = node.log().lines().find(|line| line.contains("panicked at")).map(str::to_owned);
        assert_eq!(panicked, None, "PONTOON_SEED={seed}");
        let version = node.cri().version(VersionRequest::default()).await;
        assert!(version.is_ok(), "PONTOON_SEED={seed}: {version:?}");
        node.remove_all().await;
        node.containerd.collect_garbage();
        node.assert_clean(&format!("PONTOON_SEED={seed}")).await;
        node.clear_logs();
        if Instant::now() > until || std::env::var_os("PONTOON_SEED").is_some() {
            break;
        }
    }
    println!("the server has had {} MiB of address space", node.most_address_space());
    // Shown with `--nocapture`. If every request were refused, the test would prove nothing.
    println!("{tally:#?}");
    for method in ["run_pod_sandbox", "create_container", "start_container"] {
        let alone = std::env::var_os("PONTOON_SEED").is_some();
        assert!(alone || tally.contains_key(&format!("{method} Ok")), "no {method} has succeeded: {tally:#?}");
    }
}
