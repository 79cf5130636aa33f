//! Level 3: the real server on a real socket, with a fake containerd below it.
//!
//! One crate, so that the fake is compiled once, with one file per behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test is no operation of the server's, and the fake makes codes")]
#![allow(dead_code, reason = "the fake has what the next test needs")]

mod support;

mod server {
    mod any_requests;
    mod attach;
    mod cgroup_driver;
    mod connections;
    mod container_events;
    mod container_image;
    mod containerd_away;
    mod create_container;
    mod errors;
    mod exec;
    mod exec_outages;
    mod exec_sync;
    mod exits;
    mod fair_shares;
    mod fifos;
    mod growth;
    mod hardening;
    mod hung_logs;
    mod image_fs_info;
    mod instances;
    mod isolation;
    mod large_records;
    mod log;
    mod logs_over_restarts;
    mod metrics;
    mod network;
    mod outages;
    mod port_forward;
    mod refusals;
    mod remove_container;
    mod restart;
    mod run_pod_sandbox;
    mod sizes;
    mod start_against_stop;
    mod start_container;
    mod stats;
    mod stop_container;
    mod take_back;
    mod task_owner;
    mod top;
    mod update_resources;
}
