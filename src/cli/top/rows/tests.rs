use super::super::running::Exit;
use super::*;

const SECOND: i64 = 1_000_000_000;

fn pod(id: &str, name: &str) -> PodSandbox {
    let metadata = PodSandboxMetadata { name: name.to_owned(), namespace: "default".to_owned(), ..Default::default() };
    PodSandbox { id: id.to_owned(), metadata: Some(metadata), ..PodSandbox::default() }
}

fn container(id: &str, pod: &str, name: &str, attempt: u32) -> Container {
    Container {
        id: id.to_owned(),
        pod_sandbox_id: pod.to_owned(),
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
        state: ContainerState::ContainerRunning.into(),
        ..Container::default()
    }
}

fn stats(id: &str, at: i64, cpu: u64, received: u64) -> PodSandboxStats {
    let value = |value| Some(UInt64Value { value });
    let interface = NetworkInterfaceUsage { rx_bytes: value(received), tx_bytes: value(7), ..Default::default() };
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes { id: id.to_owned(), ..Default::default() }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(CpuUsage { timestamp: at, usage_core_nano_seconds: value(cpu), ..Default::default() }),
            memory: Some(MemoryUsage { working_set_bytes: value(4096), ..Default::default() }),
            network: Some(NetworkUsage { timestamp: at, default_interface: Some(interface), ..Default::default() }),
            ..Default::default()
        }),
        ..PodSandboxStats::default()
    }
}

/// Stages with a detail are written `name:detail`.
fn operation(verb: &str, object: &str, stages: &[&str]) -> Operation {
    let stage = |text: &&str| {
        let (name, detail) = text.split_once(':').unwrap_or((*text, ""));
        Stage { name: name.to_owned(), age_ns: 1, detail: detail.to_owned() }
    };
    let stages = stages.iter().map(stage).collect();
    Operation { verb: verb.to_owned(), object: object.to_owned(), age_ns: 3_500_000_000, stages }
}

#[test]
fn rates_are_the_growth_of_counters_between_two_samples() {
    let sample = |at, cpu, received| Sample {
        pods: vec![pod("p", "web")],
        stats: Some(vec![stats("p", at, cpu, received)]),
        ..Sample::default()
    };
    let (old, new) = (sample(SECOND, 100, 1000), sample(3 * SECOND, 500_000_100, 5000));
    let row = &rows(Some(&old), &new, SortKey::Name)[0];
    assert_eq!((row.cpu, row.memory), (Some(0.25), Some(4096)));
    assert_eq!((row.received, row.sent), (Some(2000.0), Some(0.0)));
    let row = &rows(None, &new, SortKey::Name)[0];
    assert_eq!((row.cpu, row.memory, row.received), (None, Some(4096), None), "one reading is no rate");
    let row = &rows(Some(&new), &old, SortKey::Name)[0];
    assert_eq!(row.cpu, None, "time that runs backwards is no rate");
}

#[test]
fn what_is_not_known_is_not_zero() {
    let sample = Sample { pods: vec![pod("p", "web")], ..Sample::default() };
    let row = &rows(None, &sample, SortKey::Name)[0];
    assert_eq!((row.cpu, row.memory, &row.doing), (None, None, &None));
    let known = Sample { operations: Some(Vec::new()), ..sample };
    assert_eq!(rows(None, &known, SortKey::Name)[0].doing, Some(Vec::new()));
}

#[test]
fn restarts_are_the_newest_attempts_of_each_container() {
    let sample = Sample {
        pods: vec![pod("p", "web"), pod("q", "db")],
        containers: vec![
            container("a", "p", "main", 2),
            container("b", "p", "main", 3),
            container("c", "p", "side", 1),
            container("d", "q", "main", 0),
        ],
        ..Sample::default()
    };
    let rows = rows(None, &sample, SortKey::Restarts);
    assert_eq!(
        (rows[0].pod.as_str(), rows[0].restarts, rows[0].containers),
        ("web", Some(4), Some((2, 2))),
        "the older attempt is history"
    );
    assert_eq!((rows[1].pod.as_str(), rows[1].restarts), ("db", Some(0)));
}

#[test]
fn a_finished_init_container_is_not_missing() {
    let mut init = container("a", "p", "init", 0);
    init.state = ContainerState::ContainerExited.into();
    let main = Container { created_at: 9, ..container("b", "p", "main", 0) };
    let exits = [("a".to_owned(), Exit { code: 0, finished_at: 5 })].into();
    let sample = Sample { pods: vec![pod("p", "web")], containers: vec![init, main], exits, ..Sample::default() };
    assert_eq!(rows(None, &sample, SortKey::Name)[0].containers, Some((1, 1)));
}

#[test]
fn what_is_in_flight_is_at_its_pod_or_in_a_row_of_its_own() {
    let sample = Sample {
        pods: vec![pod("p", "web")],
        containers: vec![container("a", "p", "main", 0)],
        operations: Some(vec![
            operation("StopContainer", "a", &["grace"]),
            operation("CreateContainer", "side_p_0", &[]),
            operation("RunPodSandbox", "db_prod_uid_0", &["cni:ADD bridge", "task_create"]),
            operation("PullImage", "r.example/a_b:1", &["transfer"]),
        ]),
        ..Sample::default()
    };
    let rows = rows(None, &sample, SortKey::Name);
    let shown: Vec<_> = rows.iter().map(|r| (r.namespace.as_str(), r.pod.as_str(), r.state, r.doing.clone())).collect();
    let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
    let expected = [
        ("-", "r.example/a_b:1", "-", words(&["PullImage transfer 3s"])),
        ("default", "web", "ready", words(&["StopContainer grace 3s", "CreateContainer - 3s"])),
        ("prod", "db", "creating", words(&["RunPodSandbox cni(ADD bridge)+task_create 3s"])),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_name_cannot_command_a_terminal() {
    let sample = Sample { pods: vec![pod("p", "web\x1b[2J\u{9b}1m")], ..Sample::default() };
    assert_eq!(rows(None, &sample, SortKey::Name)[0].pod, "web?[2J?1m");
}
