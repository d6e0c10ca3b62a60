//! Subscriptions that a backend starts and ends, independent of what the connection does.

use super::Call;
use super::pending::{AskedKind, Caller};
use super::state::{Fate, HubSession};
use super::verbs::Wanted;
use crate::auth::{ChannelGrant, Rights};
use crate::hub::{ChannelName, Code, Refused};

/// The outcome of a subscription that a backend requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Subscribed,
    Refused(Refused),
    /// The connection is not authenticated, or closed before the channel's home replied.
    Ended,
}

/// Why the server ended a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A backend ended it.
    Server,
    /// The token or grant that it depended on expired.
    Expired,
    /// The key of the channel token that it depended on was withdrawn.
    KeyWithdrawn,
    /// The client lost the right to it.
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
    /// Subscribes on behalf of a backend. The outcome is added to the effects with the backend's
    /// `number` as soon as it is known.
    /// The right to receive lasts until `expires_s` (Unix time, s); `u64::MAX`: as long as the
    /// connection.
    pub fn subscribe_by_server(
        &mut self,
        call: &mut Call<'_>,
        channel: &str,
        expires_s: u64,
        number: u32,
    ) {
        // Publishing needs the client's own right.
        let rights = Rights { publish: false, ..Rights::ALL };
        let grant = ChannelGrant { rights, expires_s, key: None };
        if self.identity.is_none() {
            // Not authenticated yet: treated as if the connection did not exist.
            return call.effects.outcomes.push((number, Outcome::Ended));
        }
        let Some(at) = self.find(channel) else {
            let grant = Some(grant);
            let (since, watch, trusted, replaces) = (None, false, true, None);
            let wanted = Wanted { channel, since, watch, grant, trusted, replaces };
            match self.subscribe(call, None, AskedKind::ByServer, wanted) {
                Ok(_) => self.await_outcome(call, channel, number),
                Err(refused) => call.effects.outcomes.push((number, Outcome::Refused(refused))),
            }
            return;
        };
        if self.subscriptions[at].is_live() {
            return call.effects.outcomes.push((number, Outcome::Subscribed));
        }
        // The subscription is pending: the last request wins, so an earlier end is cancelled.
        let one = &mut self.subscriptions[at];
        one.fate = one.fate.min(Fate::Review);
        let name = one.channel.clone();
        if self.find_grant(channel).is_none() {
            self.set_grant(&name, grant);
            call.effects.rescheduled = true;
        }
        self.await_outcome(call, channel, number);
    }

    /// Unsubscribes on behalf of a backend. Returns whether there was a subscription to end.
    pub fn unsubscribe_by_server(&mut self, call: &mut Call<'_>, channel: &str) -> bool {
        // A question may be open beside a subscription by a backend.
        let has_ended_question = self.end_question(channel);
        let Some(at) = self.find(channel) else { return has_ended_question };
        if self.subscriptions[at].is_live() {
            self.end_unasked(call, at, Reason::Server);
            return true;
        }
        std::mem::replace(&mut self.subscriptions[at].fate, Fate::Ends) != Fate::Ends
    }

    fn await_outcome(&mut self, call: &mut Call<'_>, channel: &str, number: u32) {
        let channel = ChannelName::new(channel);
        self.pending_mut(call).callers.push(Caller { channel, call: number });
    }

    /// Reports the outcome of a subscription to the backends that wait for it.
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

    /// Reports to all waiting backends that the connection has ended; later replies are ignored.
    pub(super) fn end_outcomes(&mut self, call: &mut Call<'_>) {
        let callers = self.pending.iter_mut().flat_map(|pending| pending.callers.drain(..));
        call.effects.outcomes.extend(callers.map(|caller| (caller.call, Outcome::Ended)));
    }
}

/// Returns the error for a right that was lost while the home was replying.
pub(super) fn taken_back() -> Refused {
    Refused::new(Code::Forbidden, "the right to this channel was taken back")
}
