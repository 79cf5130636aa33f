//! The kernel's security modules: AppArmor's profiles and SELinux's labels. The only room that
//! reads or writes /sys/kernel/security and /sys/fs/selinux, or runs apparmor_parser.
//!
//! What a pod or a container asks for is `spec`'s to understand; what follows from it for the
//! node is the verbs', which call both. Walking over a volume is `container`'s.

pub mod apparmor;
pub mod selinux;
