//! What streaming URLs stand for. A token is the only guard of the streaming port (CVE-2020-8558: a neighbour may
//! reach a node's loopback), so it cannot be guessed, works once, and not for long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::{Attach, Exec, PortForward};
use crate::ids::SandboxId;
use crate::slots::{Bounds, Slot, Slots};

/// How long a client may take to come; what other CRI servers give.
const LIFETIME: Duration = Duration::from_secs(60);
/// How many may be waited for; of a pod's no more than are left free.
const MOST: usize = 1000;
/// 128 random bits, as base64 without padding.
const LENGTH: usize = 22;

/// How many bytes the commands have together that may be waited for.
const MOST_BYTES: usize = 64 << 20;

/// No URL is to be had now.
#[derive(Debug, thiserror::Error)]
#[error(
    "too many exec, attach and port-forward URLs, or {MOST_BYTES} bytes of commands, wait for their clients; each waits for \
     {LIFETIME:?} at most"
)]
pub struct Full;

/// What a URL was handed out for.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

impl Ask {
    /// The pod that it is for.
    pub(super) fn sandbox(&self) -> &SandboxId {
        match self {
            Self::Exec(ask) => &ask.sandbox,
            Self::Attach(ask) => &ask.sandbox,
            Self::PortForward(ask) => &ask.sandbox,
        }
    }

    /// What it takes that whoever asks decides.
    fn bytes(&self) -> usize {
        match self {
            Self::Exec(ask) => ask.command.iter().map(|word| word.len() + size_of::<String>()).sum(),
            Self::PortForward(_) | Self::Attach(_) => 0,
        }
    }
}

/// What a token is not taken for.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// There is none, or not any more.
    Unknown,
    /// Its session may not begin now. It stays.
    NotNow,
}

/// Asks whose clients have not come yet. The expired go when the next is added; there is no timer.
///
/// Found by hash under a key that is random in each process (std's SipHash) and then compared as one number: how
/// long a lookup takes says nothing about how much of a guess was right.
#[derive(Debug)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<u128, Waiting>>,
    places: Slots,
}

#[derive(Debug)]
struct Waiting {
    until: Instant,
    ask: Ask,
    /// As [`Ask::bytes`] has it.
    bytes: usize,
    _place: Slot,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { waiting: Mutex::default(), places: Slots::new(Bounds::shared(MOST)) }
    }
}

impl Tokens {
    /// Keeps an ask; its token, safe in a URL.
    pub(super) fn put(&self, ask: Ask) -> Result<String, Full> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, known| known.until > now);
        let bytes = ask.bytes();
        let others: usize = waiting.values().map(|known| known.bytes).sum();
        if others + bytes > MOST_BYTES {
            return Err(Full);
        }
        let place = self.places.try_take(ask.sandbox().as_str(), "").ok_or(Full)?;
        let token = random();
        waiting.insert(token, Waiting { until: now + LIFETIME, ask, bytes, _place: place });
        Ok(URL_SAFE_NO_PAD.encode(token.to_be_bytes()))
    }

    /// Takes an ask out, if its session may begin: a second client with its token finds nothing.
    pub(super) fn take<T>(&self, token: &str, may: impl FnOnce(&Ask) -> Option<T>) -> Result<(Ask, T), NotTaken> {
        let token = parse(token).ok_or(NotTaken::Unknown)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.get(&token).filter(|known| known.until > Instant::now()).ok_or(NotTaken::Unknown)?;
        let leave = may(&known.ask).ok_or(NotTaken::NotNow)?;
        let known = waiting.remove(&token).ok_or(NotTaken::Unknown)?;
        Ok((known.ask, leave))
    }
}

/// Only what [`Tokens::put`] can have made.
fn parse(token: &str) -> Option<u128> {
    if token.len() != LENGTH {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // As for ids: without the kernel's random source nothing is safe to hand out.
    getrandom::fill(&mut bytes).expect("the kernel's random source");
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
