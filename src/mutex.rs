//! A mutex like std's, without poisoning: a panic ends the daemon (docs/adr/0028), so no thread ever finds a lock whose
//! holder has panicked. std's own `nonpoison::Mutex` is not stable yet.

pub use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Only for short sections without `await`; tokio has one for the others.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until no other thread holds the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // Only in tests, where panics unwind, can it be poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
