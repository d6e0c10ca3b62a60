//! Subscriptions that a backend asks for and ends, whatever the connection has under way.

use super::Call;
use super::pending::{AskedKind, Caller};
use super::state::{Fate, HubSession};
use super::verbs::Wanted;
use crate::auth::{ChannelGrant, Rights};
use crate::hub::{ChannelName, Code, Refused};

/// What has become of a subscription that a backend asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Subscribed,
    Refused(Refused),
    /// The connection has not authenticated, or has ended before its channel's home answered.
    Ended,
}

/// Why a subscription ended that its client has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A backend ended it.
    Server,
    /// The token or grant that it depended on has expired.
    Expired,
    /// The key of the channel token that it depended on was withdrawn.
    KeyWithdrawn,
    /// The client has no right to it any more.
    Rights,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Expired => "expired",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::Rights => "rights",
        }
    }
}

impl HubSession {
    /// Subscribes for a backend, whose number for this is in the effects once it is known what has
    /// become of it.
    pub fn subscribe_by_server(&mut self, call: &mut Call<'_>, channel: &str, number: u32) {
        // To listen, as long as the connection lives; publishing is for its own rights to allow.
        let rights = Rights { publish: false, ..Rights::ALL };
        let grant = ChannelGrant { rights, expires_s: u64::MAX, key: None };
        if self.identity.is_none() {
            // It is no client yet.
            return call.effects.outcomes.push((number, Outcome::Ended));
        }
        let Some(at) = self.find(channel) else {
            let grant = Some(grant);
            let (since, watch, trusted, replaces) = (None, false, true, None);
            let wanted = Wanted { channel, since, watch, grant, trusted, replaces };
            match self.subscribe(call, None, AskedKind::ByServer, wanted) {
                Ok(_) => self.await_outcome(channel, number),
                Err(refused) => call.effects.outcomes.push((number, Outcome::Refused(refused))),
            }
            return;
        };
        if self.subscriptions[at].is_live() {
            return call.effects.outcomes.push((number, Outcome::Subscribed));
        }
        // Its home has not answered yet: what was asked last counts.
        let one = &mut self.subscriptions[at];
        one.fate = one.fate.min(Fate::Review);
        let name = one.channel.clone();
        if self.grant(channel).is_none() {
            self.set_grant(&name, grant);
            call.effects.rescheduled = true;
        }
        self.await_outcome(channel, number);
    }

    /// Unsubscribes for a backend; returns whether there was anything to end.
    pub fn unsubscribe_by_server(&mut self, call: &mut Call<'_>, channel: &str) -> bool {
        let Some(at) = self.find(channel) else { return false };
        if self.subscriptions[at].is_live() {
            self.end_unasked(call, at, Reason::Server);
            return true;
        }
        std::mem::replace(&mut self.subscriptions[at].fate, Fate::Ends) != Fate::Ends
    }

    fn await_outcome(&mut self, channel: &str, call: u32) {
        let channel = ChannelName::new(channel);
        self.pending().callers.push(Caller { channel, call });
    }

    /// A home has answered: backends hear what has become of the subscription.
    pub(super) fn note_outcome(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        outcome: Result<(), &Refused>,
    ) {
        let Some(pending) = &mut self.pending else { return };
        let concerned = |one: &mut Caller| one.channel.as_str() == channel;
        for caller in pending.callers.extract_if(.., concerned) {
            let outcome = match outcome {
                Ok(()) => Outcome::Subscribed,
                Err(refused) => Outcome::Refused(refused.clone()),
            };
            call.effects.outcomes.push((caller.call, outcome));
        }
    }

    /// The connection has ended, and no answer of a home counts any more.
    pub(super) fn end_outcomes(&mut self, call: &mut Call<'_>) {
        let callers = self.pending.iter_mut().flat_map(|pending| pending.callers.drain(..));
        call.effects.outcomes.extend(callers.map(|caller| (caller.call, Outcome::Ended)));
    }
}

/// The right to a channel was lost while its home was asked.
pub(super) fn taken_back() -> Refused {
    Refused::new(Code::Forbidden, "the right to this channel was taken back")
}
