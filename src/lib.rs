//! Pontoon: a CRI server between kubelet and containerd.

pub mod api;
pub mod cgroup;
pub mod config;
pub mod container;
pub mod containerd;
pub mod ids;
pub mod sandbox;
pub mod store;
pub mod tasks;
pub mod undo;
