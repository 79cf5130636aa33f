//! What streaming URLs stand for. A token is the only guard of the streaming port (CVE-2020-8558: a neighbour may
//! reach a node's loopback), so it cannot be guessed, works once, and not for long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::{Attach, Exec, PortForward};

/// How long a client may take to come; what other CRI servers give.
const LIFETIME: Duration = Duration::from_secs(60);
/// How many may be waited for.
const MOST: usize = 1000;
/// 128 random bits, as base64 without padding.
const LENGTH: usize = 22;

/// How many bytes the commands have together that may be waited for.
const MOST_BYTES: usize = 64 << 20;

/// No URL is to be had now.
#[derive(Debug, thiserror::Error)]
#[error(
    "{MOST} exec, attach and port-forward URLs, or {MOST_BYTES} bytes of commands, wait for their clients already; each \
     waits for {LIFETIME:?} at most"
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
    /// What it takes that whoever asks decides.
    fn bytes(&self) -> usize {
        match self {
            Self::Exec(ask) => ask.command.iter().map(|word| word.len() + size_of::<String>()).sum(),
            Self::PortForward(_) | Self::Attach(_) => 0,
        }
    }
}

/// Asks whose clients have not come yet. The expired go when the next is added; there is no timer.
///
/// Found by hash under a key that is random in each process (std's SipHash) and then compared as one number: how
/// long a lookup takes says nothing about how much of a guess was right.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<u128, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    until: Instant,
    ask: Ask,
    /// As [`Ask::bytes`] has it.
    bytes: usize,
}

impl Tokens {
    /// Keeps an ask; its token, safe in a URL.
    pub(super) fn put(&self, ask: Ask) -> Result<String, Full> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, known| known.until > now);
        let bytes = ask.bytes();
        let others: usize = waiting.values().map(|known| known.bytes).sum();
        if waiting.len() >= MOST || others + bytes > MOST_BYTES {
            return Err(Full);
        }
        let token = random();
        waiting.insert(token, Waiting { until: now + LIFETIME, ask, bytes });
        Ok(URL_SAFE_NO_PAD.encode(token.to_be_bytes()))
    }

    /// Takes an ask out: a second client with its token finds nothing.
    pub(super) fn take(&self, token: &str) -> Option<Ask> {
        let token = parse(token)?;
        let known = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&token)?;
        (known.until > Instant::now()).then_some(known.ask)
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
