//! Pontoon: a CRI server between kubelet and containerd.
//!
//! ```text
//! kubelet ──CRI──► cri ──► runtime, images ──► sandbox, container, store
//!                                    │
//!                                    └──► spec, network, netns, userns, cgroup, containerd ──► containerd
//! ```
//! Each module's `mod.rs` says what the module does, what it must not do and which modules call it.
//! docs/architecture.md follows one RunPodSandbox through the modules.

pub mod admin;
pub mod api;
pub mod cdi;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod events;
pub mod flights;
pub mod ids;
pub mod images;
pub mod joined;
pub mod log_keys;
pub mod lsm;
pub mod mutex;
pub mod netns;
pub mod network;
pub mod pending_connections;
pub mod runtime;
pub mod sandbox;
pub mod slots;
pub mod spec;
pub mod stats;
pub mod store;
pub mod streaming;
pub mod sys;
pub mod task;
pub mod tasks;
pub mod telemetry;
pub mod undo;
pub mod userns;
