//! Replaces `src/lsm/`: only the limit against which the configuration is checked.

pub mod selinux {
    pub const MAX_CATEGORIES: u16 = 1024;
}
