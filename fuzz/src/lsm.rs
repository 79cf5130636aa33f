//! As `src/lsm/`, with the one number that the configuration is checked by.

pub mod selinux {
    pub const MAX_CATEGORIES: u16 = 1024;
}
