//! Level 5: the whole system with real containerd, runc and CNI, through CRI's socket and crictl as kubelet and users
//! do.
//!
//! `PONTOON_BED` is the path of a bed's environment file (`bed.sh up NAME`, then `bed.sh env NAME`). Without it every
//! test is skipped. The same tests run on a bed with containerd's built-in CRI, which shows mistakes in the tests. What
//! the built-in is known not to do is skipped there with a reason.
//!
//! ```text
//! PONTOON_BED=$(tests/e2e/bed.sh env NAME) cargo test --test e2e [-- FILTER...]
//! ```

use std::path::Path;

mod bed;
mod bench;
mod bench_calls;
mod harness;
#[path = "../support/hung.rs"]
mod hung;
mod lists;
mod logs;
mod node;
mod oom;
mod registry;
mod scope;
mod security;
mod standing;
mod streaming;

mod abuse;
mod apparmor;
mod bad_input;
mod churn;
mod churn_containerd;
mod container_exit;
mod container_logs;
mod container_mounts;
mod container_process;
mod container_resources;
mod container_security;
mod container_stop;
mod crictl;
mod devices;
mod events;
mod exec_flood;
mod golden_specs;
mod handlers;
mod image_volumes;
mod images;
mod metrics;
mod pods;
mod pods_network;
mod restart;
mod restart_logs;
mod security_files;
mod security_images;
mod security_names;
mod security_process;
mod security_streaming;
mod security_tls;
mod selinux;
mod shim;
mod stats;
mod streaming_attach;
mod streaming_churn;
mod streaming_crictl;
mod streaming_exec;
mod streaming_forward;
mod streaming_speed;
mod userns;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, builtin, pontoon, list] = arguments.as_slice()
        && option == "--compare-specs"
    {
        return compare_specs(builtin.as_ref(), pontoon.as_ref(), list.as_ref());
    }
    if let [option, a, b] = arguments.as_slice()
        && option == "--bench-calls"
    {
        return exit_code(bench_calls::main(a.as_ref(), b.as_ref()).map(|()| true));
    }
    if let [option, what] = arguments.as_slice()
        && option == "--bench"
    {
        return exit_code(bench::main(what).map(|()| true));
    }
    if arguments == ["--measure-streaming"] {
        return exit_code(streaming_speed::measure());
    }
    harness::main(FILES.iter().flat_map(|tests| tests()).collect())
}

/// The tests of each file, in the order in which they run.
const FILES: &[fn() -> Vec<harness::Test>] = &[
    pods::tests,
    pods_network::tests,
    container_process::tests,
    container_security::tests,
    abuse::tests,
    apparmor::tests,
    selinux::tests,
    container_mounts::tests,
    devices::tests,
    handlers::tests,
    container_resources::tests,
    container_logs::tests,
    container_exit::tests,
    container_stop::tests,
    events::tests,
    oom::tests,
    lists::tests,
    image_volumes::tests,
    userns::tests,
    stats::tests,
    images::tests,
    metrics::tests,
    bad_input::tests,
    crictl::tests,
    security_streaming::tests,
    security_tls::tests,
    streaming_exec::tests,
    streaming_attach::tests,
    streaming_forward::tests,
    streaming_crictl::tests,
    security_process::tests,
    security_files::tests,
    security_images::tests,
    security_names::tests,
    golden_specs::tests,
    restart::tests,
    restart_logs::tests,
    streaming_churn::tests,
    exec_flood::tests,
    churn::tests,
    churn_containerd::tests,
];

/// Run by golden-specs.sh.
fn compare_specs(builtin: &Path, pontoon: &Path, list: &Path) -> std::process::ExitCode {
    exit_code(golden_specs::compare(builtin, pontoon, list))
}

/// The exit code for a script. An outcome of false is a failure too.
fn exit_code(outcome: anyhow::Result<bool>) -> std::process::ExitCode {
    match outcome {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
