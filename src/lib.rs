//! Pontoon: a CRI server between kubelet and containerd.

pub mod api;
pub mod container;
pub mod containerd;
pub mod ids;
pub mod sys;
pub mod tasks;
pub mod undo;
