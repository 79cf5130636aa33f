//! Pontoon: a CRI server between kubelet and containerd.

pub mod api;
pub mod containerd;
pub mod ids;
pub mod netns;
pub mod network;
pub mod tasks;
pub mod undo;
