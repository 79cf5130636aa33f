//! Level 5: the whole thing, on real containerd, runc and CNI, through CRI's socket and crictl as kubelet and users do.
//!
//! `PONTOON_BED` is the path of a bed's environment file (`bed.sh up NAME`, then `bed.sh env NAME`); without it every
//! test is skipped. On a bed with containerd's built-in CRI the same tests run, so that a wrong test shows; what the
//! built-in is known not to do is skipped there with a reason.
//!
//! ```text
//! PONTOON_BED=$(tests/e2e/bed.sh env NAME) cargo test --test e2e [-- FILTER...]
//! ```

mod bed;
mod harness;
mod logs;
mod node;
mod registry;
mod scope;

mod bad_input;
mod churn;
mod container_exit;
mod container_logs;
mod container_mounts;
mod container_process;
mod container_resources;
mod container_security;
mod container_stop;
mod crictl;
mod images;
mod pods;
mod pods_network;
mod restart;
mod userns;

fn main() -> std::process::ExitCode {
    let mut tests = Vec::new();
    for of_file in [
        pods::tests,
        pods_network::tests,
        container_process::tests,
        container_security::tests,
        container_mounts::tests,
        container_resources::tests,
        container_logs::tests,
        container_exit::tests,
        container_stop::tests,
        userns::tests,
        images::tests,
        bad_input::tests,
        crictl::tests,
        restart::tests,
        churn::tests,
    ] {
        tests.extend(of_file());
    }
    harness::main(tests)
}
