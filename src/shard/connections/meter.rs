//! Rate limits of single connections; costs nothing where none is set.

use super::{Connections, Sessions};
use crate::admission::limiter::{Limiter, RateBounds, RateKind};
use crate::admission::{Denied, Standing};

/// The kinds that are checked before a message is processed.
const KINDS: [RateKind; 2] = [RateKind::Messages, RateKind::Bytes];

/// A message that exceeds a rate limit.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct TooMuch {
    pub(in crate::shard) kind: RateKind,
    /// When to retry (ms).
    pub(in crate::shard) wait_ms: u64,
}

/// Returns whether messages are counted before they are processed.
#[inline]
pub(super) fn is_metered(bounds: &RateBounds) -> bool {
    bounds.has_bounds(&KINDS)
}

/// Budgets by slot, made with the first message.
#[derive(Debug, Default)]
pub(super) struct Meter(Vec<Option<Box<Limiter>>>);

impl Meter {
    /// Charges a message to the budgets of its connection and of its user.
    #[inline]
    pub(super) fn take_message(
        &mut self,
        index: u32,
        bounds: &RateBounds,
        sessions: &impl Sessions,
        bytes: usize,
        now_ns: u64,
    ) -> Result<(), TooMuch> {
        if !is_metered(bounds) {
            return Ok(());
        }
        self.take_from_limiter(index, bounds, sessions, bytes, now_ns)
    }

    fn take_from_limiter(
        &mut self,
        index: u32,
        bounds: &RateBounds,
        sessions: &impl Sessions,
        bytes: usize,
        now_ns: u64,
    ) -> Result<(), TooMuch> {
        let limiter = self.limiter_mut(index).get_or_insert_default();
        let user = sessions.user(index);
        for (kind, times) in KINDS.into_iter().zip([1, bytes as u32]) {
            let taken = limiter.take_tokens(bounds, kind, times, user, now_ns);
            taken.map_err(|wait_ms| TooMuch { kind, wait_ms })?;
        }
        Ok(())
    }

    /// Returns the budgets of a connection, if it has any.
    pub(super) fn limiter(&self, index: u32) -> Option<&Limiter> {
        self.0.get(index as usize)?.as_deref()
    }

    /// Restores the budgets of a connection.
    pub(super) fn set_limiter(&mut self, index: u32, limiter: Limiter) {
        *self.limiter_mut(index) = Some(Box::new(limiter));
    }

    fn limiter_mut(&mut self, index: u32) -> &mut Option<Box<Limiter>> {
        if self.0.len() <= index as usize {
            self.0.resize_with(index as usize + 1, || None);
        }
        &mut self.0[index as usize]
    }

    /// Removes the budgets of a connection.
    pub(super) fn remove_limiter(&mut self, index: u32) {
        if let Some(limiter) = self.0.get_mut(index as usize) {
            *limiter = None;
        }
    }
}

impl Connections {
    /// Returns how a connection that was just accepted is counted by admission.
    pub(in crate::shard) fn decide_standing(
        &mut self,
        listener: u8,
        peer: Option<std::net::IpAddr>,
    ) -> Standing {
        let limits = &self.config.limits;
        let denied = if self.slots.len() as u32 >= limits.connections_per_shard_max {
            Denied::ShardFull
        } else if self.gauges.handshakes - u64::from(self.rejected_handshakes)
            >= u64::from(limits.handshakes_per_shard_max)
        {
            Denied::Handshakes
        } else {
            let listener = &self.config.listeners[usize::from(listener)];
            // The PROXY header or the request may name another address.
            let direct = !listener.proxy_protocol && listener.forwarding.is_none();
            if !direct {
                return Standing::Waiting;
            }
            let admission = self.directory.admission();
            match admission.enter(&limits.admission, peer, self.now_ns) {
                Ok(standing) => return standing,
                Err(denied) => denied,
            }
        };
        Standing::Refused(denied)
    }
}
