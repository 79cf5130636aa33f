//! Linux security modules: AppArmor's profiles and SELinux's labels. Only this module reads or writes
//! /sys/kernel/security and /sys/fs/selinux, or runs apparmor_parser.
//!
//! `spec` interprets what a pod or a container requests. The verbs call both modules and apply the result to the node.
//! `container` walks over volumes to label them.

pub mod apparmor;
pub mod selinux;
