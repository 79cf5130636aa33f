//! The tokens in streaming URLs. A token is the only protection of the streaming port (CVE-2020-8558: a neighbouring
//! host may reach a node's loopback), so it cannot be guessed, works once, and expires soon.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::{Attach, Exec, PortForward};
use crate::ids::SandboxId;
use crate::mutex::Mutex;
use crate::slots::{Bounds, Slot, Slots};

/// How long a client may take to connect. Other CRI servers use the same limit.
const LIFETIME: Duration = Duration::from_secs(60);
/// Maximum number of URLs that wait for their clients. A pod gets one more only while it has fewer than are free.
const MOST: usize = 1000;
/// Length of a token: 128 random bits in base64 without padding.
const LENGTH: usize = 22;

/// Maximum total size in bytes of the commands that wait for their clients.
const MOST_BYTES: usize = 64 << 20;

/// No further URL can be issued now.
#[derive(Debug, thiserror::Error)]
#[error(
    "too many exec, attach and port-forward URLs, or {MOST_BYTES} bytes of commands, are waiting for their clients; \
     each waits for {LIFETIME:?} at most"
)]
pub struct Full;

/// The request for which a URL was issued.
#[derive(Debug, Clone)]
pub(super) enum PendingRequest {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

impl PendingRequest {
    pub(super) fn sandbox(&self) -> &SandboxId {
        match self {
            Self::Exec(request) => &request.sandbox,
            Self::Attach(request) => &request.sandbox,
            Self::PortForward(request) => &request.sandbox,
        }
    }

    /// The size of those parts of the request that the caller chooses freely.
    fn bytes(&self) -> usize {
        match self {
            Self::Exec(request) => request.command.iter().map(|word| word.len() + size_of::<String>()).sum(),
            Self::PortForward(_) | Self::Attach(_) => 0,
        }
    }
}

/// Why a token could not be redeemed.
#[derive(Debug)]
pub(super) enum RedeemError {
    /// The token never existed, was used, or has expired.
    Unknown,
    /// The session may not begin now. The token stays valid.
    NoSlot,
}

/// The requests whose clients have not connected yet. Adding a request removes the expired ones; there is no timer.
///
/// Lookups go by a hash under a key that is random for each process (std's SipHash), and then compare the token as one
/// number. So the duration of a lookup does not reveal how much of a guessed token is right.
#[derive(Debug)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<u128, Waiting>>,
    slots: Slots,
}

#[derive(Debug)]
struct Waiting {
    until: Instant,
    request: PendingRequest,
    /// The result of [`PendingRequest::bytes`].
    bytes: usize,
    _slot: Slot,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { waiting: Mutex::default(), slots: Slots::new(Bounds::shared(MOST)) }
    }
}

impl Tokens {
    /// Stores a request, and returns its token, which is safe in a URL.
    pub(super) fn put(&self, request: PendingRequest) -> Result<String, Full> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, known| known.until > now);
        let bytes = request.bytes();
        let others: usize = waiting.values().map(|known| known.bytes).sum();
        if others + bytes > MOST_BYTES {
            return Err(Full);
        }
        let slot = self.slots.try_take(request.sandbox().as_str(), "").ok_or(Full)?;
        let token = random();
        waiting.insert(token, Waiting { until: now + LIFETIME, request, bytes, _slot: slot });
        Ok(URL_SAFE_NO_PAD.encode(token.to_be_bytes()))
    }

    /// Removes and returns the request of this token if its session may begin. A second client with the same token
    /// finds nothing.
    pub(super) fn redeem<T>(
        &self,
        token: &str,
        may: impl FnOnce(&PendingRequest) -> Option<T>,
    ) -> Result<(PendingRequest, T), RedeemError> {
        let token = parse(token).ok_or(RedeemError::Unknown)?;
        let mut waiting = self.waiting.lock();
        let known = waiting.get(&token).filter(|known| known.until > Instant::now()).ok_or(RedeemError::Unknown)?;
        let permit = may(&known.request).ok_or(RedeemError::NoSlot)?;
        let known = waiting.remove(&token).ok_or(RedeemError::Unknown)?;
        Ok((known.request, permit))
    }
}

/// Accepts only what [`Tokens::put`] can have returned.
fn parse(token: &str) -> Option<u128> {
    if token.len() != LENGTH {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // As for ids: without the kernel's random source no token would be safe.
    getrandom::fill(&mut bytes).expect("the kernel's random source");
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
