//! Pontoon: a CRI server between kubelet and containerd.

pub mod api;
pub mod containerd;
pub mod ids;
pub mod images;
pub mod sys;
pub mod tasks;
pub mod undo;
