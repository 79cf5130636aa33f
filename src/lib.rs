//! Pontoon: a CRI server between kubelet and containerd.

pub mod api;
pub mod cgroup;
pub mod config;
pub mod containerd;
pub mod ids;
pub mod sandbox;
pub mod tasks;
pub mod undo;
