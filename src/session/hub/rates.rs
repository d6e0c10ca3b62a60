//! Rate limits of requests, of a connection and of its user.

use super::Call;
use super::state::HubSession;
use crate::admission::limiter::{Excess, RateKind};
use crate::hub::{Code, Refused};
use crate::proto::ws::{CloseCode, Payload};

impl HubSession {
    /// Charges a request with the weight `times` to the rate limit. Returns true if the limit is
    /// exceeded, after replying as the policy demands.
    pub(super) fn is_too_much(
        &mut self,
        call: &mut Call<'_>,
        id: Option<&str>,
        kind: RateKind,
        times: u32,
    ) -> bool {
        let rates = &call.realm.limits.rates;
        if !rates.has_bounds(&[kind]) {
            return false;
        }
        let user = self.user().cloned();
        let user = user.as_deref().map(|user| (user, &*call.realm.admission));
        let Err(wait_ms) =
            self.extras_mut().limiter.take_tokens(rates, kind, times, user, call.now_ns)
        else {
            return false;
        };
        call.effects.over_rate.push(kind);
        refuse_request(call, id, kind, wait_ms);
        true
    }

    /// Processes a frame that exceeds a rate limit: each of its requests is rejected by the policy.
    pub fn refuse_frame(
        &mut self,
        call: &mut Call<'_>,
        text: Payload<'_>,
        kind: RateKind,
        wait_ms: u64,
    ) {
        call.effects.over_rate.push(kind);
        self.receive_frame(call, text, Some((kind, wait_ms)));
    }
}

pub(super) fn refuse_request(call: &mut Call<'_>, id: Option<&str>, kind: RateKind, wait_ms: u64) {
    let text = format!("too many {} per second; wait {wait_ms} ms", kind.name());
    match call.realm.limits.rates.excess {
        Excess::Drop => {}
        Excess::Error => {
            call.effects.errors += 1;
            call.say_error(id, &Refused::new(Code::RateLimited, text));
        }
        Excess::Close => {
            call.effects.close = Some((CloseCode::RATE_LIMITED, text));
            call.effects.retry_after_ms = wait_ms.min(u64::from(u32::MAX)) as u32;
        }
    }
}
